"""A Hugging Face checkpoint, from local files to device, with every failure in one line."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from experts.adapter import adapter_folder
from experts.errors import ModelLoadError
from experts.fetch import fetch, uri_name
from experts.merge import merge_adapter
from experts.prompt import PromptRenderer
from experts.token import checkpoint_fingerprint, head_fingerprint


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is, and how it is to be loaded: small enough to travel to the worker that loads it.

    `source`: a folder, a hub id, or a URI that is fetched where it is loaded; `dtype`: "auto" or a torch
    dtype's name; `device`: what torch calls it; `trust_remote_code`: its own Python files may run. `adapter`:
    a folder or a URI of a LoRA adapter that is merged into what is loaded.
    """

    source: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False
    adapter: str | None = None

    @property
    def name(self) -> str:
        """The hub id, or the name of the folder: where that folder lies is nobody's business."""
        return checkpoint_name(self.source)

    def load(self) -> tuple[PreTrainedModel, PromptRenderer]:
        """Raises ModelLoadError, TemplateError."""
        model, renderer = load_checkpoint(
            self.source,
            revision=self.revision,
            dtype=self.dtype,
            device_map=self.device,
            trust_remote_code=self.trust_remote_code,
        )
        if self.adapter is not None:
            merge_adapter(model, adapter_folder(self.adapter))
        return model, renderer

    def load_renderer(self) -> PromptRenderer:
        """The tokenizer and chat template alone. Raises ModelLoadError, TemplateError."""
        return _load_renderer(local_source(self.source), self._local())

    def max_tokens(self) -> int | None:
        """The context window, if the configuration names one. Raises ModelLoadError."""
        window: int | None = getattr(self.config().get_text_config(), "max_position_embeddings", None)
        return window

    def config(self) -> PretrainedConfig:
        """Raises ModelLoadError."""
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(local_source(self.source), **self._local())
        except _UNREADABLE as error:
            raise _unloadable(self.source, error) from error
        return config

    def generation(self) -> GenerationConfig:
        """As the loaded model would have it: from a file of its own, or from the configuration."""
        try:
            return GenerationConfig.from_pretrained(self.folder(), local_files_only=True)
        except OSError:
            return GenerationConfig.from_model_config(self.config())

    def fingerprint(self) -> str:
        """The fingerprint of the output head; loads the model only where its files do not name the head.

        Raises ModelLoadError.
        """
        return self.head()[0]

    def head(self) -> tuple[str, int]:
        """(fingerprint, dim) of the output head; see `fingerprint`. Raises ModelLoadError."""
        found = checkpoint_fingerprint(self.folder())
        if found:
            return found
        weight = self.load()[0].get_output_embeddings().weight
        return head_fingerprint(weight), weight.shape[1]

    def folder(self) -> Path:
        """Where its files lie on this machine. Raises ModelLoadError."""
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
    """What Hugging Face can load: the folder of a URI, fetched if need be; anything else as it is.

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
    """Load the folder, hub id or URI `source`; without `trust_remote_code` none of its own code runs.

    Only what a URI names is downloaded: a hub id has to be in the local cache, its code too.

    Raises:
        ModelLoadError: it is not there, not a causal LM, does not fit, or needs code that is not trusted.
        TemplateError: its chat template cannot hold a conversation.
    """
    source = local_source(source)
    local = _local(revision, trust_remote_code)
    renderer = _load_renderer(source, local)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attention,
            **local,
        )
    except _UNREADABLE as error:
        raise _unloadable(source, error) from error
    return model.eval(), renderer


_UNREADABLE = (
    OSError,
    ValueError,
    ImportError,
    SafetensorError,
    StrictDataclassError,  # what config.json says contradicts itself
    torch.OutOfMemoryError,
)


def _load_renderer(source: str, local: dict[str, Any]) -> PromptRenderer:
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise ModelLoadError(
            f"{source}: no such model folder on node {socket.gethostname()}; correct model.path, put it on a "
            "disk that every node shares, use model: {uri: …}, or build it into the image"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **local)
    except _UNREADABLE as error:
        raise _unloadable(source, error) from error
    renderer = PromptRenderer(tokenizer)
    renderer.self_test()
    return renderer


def _local(revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    return {"revision": revision, "local_files_only": True, "trust_remote_code": trust_remote_code}


def _unloadable(source: str, error: BaseException) -> ModelLoadError:
    # Transformers has no type of its own for this, but always names its argument.
    if "trust_remote_code=True" in str(error):
        return ModelLoadError(
            f"{source}: holds code of its own that would have to run; use a checkpoint without, or, if you "
            "trust whoever wrote it, model: {trust_remote_code: true}"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelLoadError(f"{source}: cannot be loaded: {reason}; correct the model or its files")
