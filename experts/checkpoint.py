"""Loads Hugging Face checkpoints from local files to a device, and reports failures in one line."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file

from experts.adapter import adapted_fingerprint, adapter_folder
from experts.errors import ModelLoadError
from experts.fetch import fetch, uri_name
from experts.merge import merge_adapter
from experts.prompt import PromptRenderer
from experts.text.tokenizer_file import restore_stages
from experts.token import checkpoint_fingerprint, head_fingerprint


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is and how to load it; small enough to send to the worker that loads it.

    `source`: a folder, a hub id, or a URI, which is fetched on the machine that loads it. `dtype`: "auto" or
    the name of a torch dtype. `device`: its name in torch, or a device map. `trust_remote_code`: the
    checkpoint's own Python files may run. `adapter`: folder or URI of a LoRA adapter to merge.
    `template_kwargs`: variables of the chat template.
    """

    source: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False
    adapter: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The hub id, or the name of the folder without its path, which stays private."""
        return checkpoint_name(self.source)

    def load(self, attention: str = "sdpa") -> tuple[PreTrainedModel, PromptRenderer]:
        """`attention`: the name that transformers has for it. Raises ModelLoadError, TemplateError."""
        model, renderer = load_checkpoint(
            self.source,
            revision=self.revision,
            dtype=self.dtype,
            device_map=self.device,
            attention=attention,
            trust_remote_code=self.trust_remote_code,
        )
        if self.adapter is not None:
            merge_adapter(model, adapter_folder(self.adapter))
        return model, renderer.with_variables(self.template_kwargs)

    def load_renderer(self) -> PromptRenderer:
        """The tokenizer and chat template alone. Raises ModelLoadError, TemplateError."""
        return _load_renderer(local_source(self.source), self._local()).with_variables(self.template_kwargs)

    def max_tokens(self) -> int | None:
        """The context window, if the configuration names one. Raises ModelLoadError."""
        window: int | None = getattr(self.config().get_text_config(), "max_position_embeddings", None)
        return window

    def config(self) -> PretrainedConfig:
        """Raises ModelLoadError."""
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(local_source(self.source), **self._local())
        except UNREADABLE as error:
            raise _unloadable(self.source, error) from error
        return config

    def generation(self) -> GenerationConfig:
        """The generation settings of the loaded model: from their own file, or from the configuration."""
        try:
            return GenerationConfig.from_pretrained(self.folder(), local_files_only=True)
        except OSError:
            return GenerationConfig.from_model_config(self.config())

    def fingerprint(self) -> str:
        """The fingerprint of the output head. Loads the model only if its files do not name the head.

        Raises ModelLoadError.
        """
        return self.head()[0]

    def head(self) -> tuple[str, int]:
        """(fingerprint, dim) of the output head; see `fingerprint`. Raises ModelLoadError."""
        if self.adapter is not None:
            fingerprint, dim = replace(self, adapter=None).head()
            return adapted_fingerprint(fingerprint, adapter_folder(self.adapter)), dim
        found = checkpoint_fingerprint(self.folder())
        if found:
            return found
        # In the dtype of its files: a float16 copy of a float32 head would have another fingerprint.
        weight = replace(self, dtype="auto").load()[0].get_output_embeddings().weight
        return head_fingerprint(weight), weight.shape[1]

    def folder(self) -> Path:
        """The folder of its files on this machine. Raises ModelLoadError."""
        source = local_source(self.source)
        if Path(source).is_dir():
            return Path(source)
        try:
            return Path(snapshot_download(source, revision=self.revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError) as error:
            raise ModelLoadError(
                f"{self.source}: neither a folder nor in the local hub cache; correct the path or download it"
            ) from error

    def _local(self) -> dict[str, Any]:
        return _local(self.revision, self.trust_remote_code)


def checkpoint_name(source: str) -> str:
    if "://" in source:
        return uri_name(source)
    return Path(source).resolve().name if source and Path(source).is_dir() else source


def local_source(source: str) -> str:
    """A source that Hugging Face can load: for a URI its folder, fetched if necessary; else `source` itself.

    Raises ModelLoadError.
    """
    return str(fetch(source)) if "://" in source else source


def load_checkpoint(
    source: str,
    *,
    revision: str | None,
    dtype: str,
    device_map: str,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PromptRenderer]:
    """Loads the folder, hub id or URI `source`; without `trust_remote_code` none of its own code runs.

    Only URIs are downloaded: a hub id must be in the local cache, with its code.

    Raises:
        ModelLoadError: it is missing, not a causal LM, too large, or needs code that is not trusted.
        TemplateError: its chat template cannot hold a conversation.
    """
    source = local_source(source)
    local = _local(revision, trust_remote_code)
    renderer = _load_renderer(source, local)
    try:
        model = _load_model(source, attention, dtype=dtype, device_map=device_map, **local)
    except UNREADABLE as error:
        raise _unloadable(source, error) from error
    return model.eval(), renderer


UNREADABLE = (
    OSError,
    ValueError,
    ImportError,
    SafetensorError,
    StrictDataclassError,  # config.json contradicts itself
    torch.OutOfMemoryError,
)


def _load_model(source: str, attention: str, **options: Any) -> PreTrainedModel:
    """With "eager" in place of "sdpa" for models that cap their attention scores or have attention sinks.

    Torch has no function for these. For the former the library would leave the cap out, without an error.
    """
    try:
        model: PreTrainedModel = _auto_class(source, options).from_pretrained(
            source, use_safetensors=True, attn_implementation=attention, **options
        )
    except ValueError as error:
        if attention != "sdpa" or "scaled_dot_product_attention" not in str(error):
            raise
        return _load_model(source, "eager", **options)
    if attention == "sdpa" and getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    return model


def _auto_class(source: str, options: dict[str, Any]) -> Any:
    """Some models that take images too are listed apart, although they answer without an image as well."""
    local = {name: options[name] for name in _local(None, trust_remote_code=False)}
    config = type(AutoConfig.from_pretrained(source, **local))
    is_apart = config not in MODEL_FOR_CAUSAL_LM_MAPPING and config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if is_apart else AutoModelForCausalLM


def _load_renderer(source: str, local: dict[str, Any]) -> PromptRenderer:
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise ModelLoadError(
            f"{source}: no such model folder on node {socket.gethostname()}; correct model.path, put it on a "
            "disk that every node shares, use model: {uri: …}, or build it into the image"
        )
    try:
        # Not Mistral's own tokenizer library, which transformers prefers where it is installed.
        tokenizer = AutoTokenizer.from_pretrained(source, mistral_format=False, **local)
    except UNREADABLE as error:
        raise _unloadable(source, error) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelLoadError(
            f"{source}: its tokenizer, a {type(tokenizer).__name__}, is not one of the library `tokenizers`, "
            "so answers cannot be streamed; put a tokenizer.json into the folder and set tokenizer_class: "
            "PreTrainedTokenizerFast in its tokenizer_config.json"
        )
    if file := cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **local):
        restore_stages(tokenizer, file)
    renderer = PromptRenderer(tokenizer)
    renderer.self_test()
    return renderer


def _local(revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    return {"revision": revision, "local_files_only": True, "trust_remote_code": trust_remote_code}


def _unloadable(source: str, error: BaseException) -> ModelLoadError:
    # Transformers has no exception type for this, but its message always names the argument.
    if "trust_remote_code=True" in str(error):
        return ModelLoadError(
            f"{source}: holds code of its own that would have to run; use a checkpoint without code, or, if "
            "you trust its authors, model: {trust_remote_code: true}"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelLoadError(f"{source}: cannot be loaded: {reason}; correct the model or its files")
