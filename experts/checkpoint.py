"""A Hugging Face checkpoint, from local files to device, with every failure in one line."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from experts.errors import ModelLoadError
from experts.fetch import fetch, uri_name
from experts.prompt import PromptRenderer
from experts.token import checkpoint_fingerprint, head_fingerprint


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is, and how it is to be loaded: small enough to travel to the worker that loads it.

    `source`: a folder, a hub id, or a URI that is fetched where it is loaded; `dtype`: "auto" or a torch
    dtype's name; `device`: what torch calls it.
    """

    source: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The hub id, or the name of the folder: where that folder lies is nobody's business."""
        return checkpoint_name(self.source)

    def load(self) -> tuple[PreTrainedModel, PromptRenderer]:
        """Raises ModelLoadError, TemplateError."""
        return load_checkpoint(self.source, revision=self.revision, dtype=self.dtype, device_map=self.device)

    def load_renderer(self) -> PromptRenderer:
        """The tokenizer and chat template alone. Raises ModelLoadError, TemplateError."""
        return _load_renderer(local_source(self.source), self.revision)

    def max_tokens(self) -> int | None:
        """The context window, if the configuration names one. Raises ModelLoadError."""
        try:
            config = AutoConfig.from_pretrained(local_source(self.source), **_local(self.revision))
        except _UNREADABLE as error:
            raise _unloadable(self.source, error) from error
        window: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
        return window

    def fingerprint(self) -> str:
        """The fingerprint of the output head; loads the model only where its files do not name the head.

        Raises ModelLoadError.
        """
        found = checkpoint_fingerprint(self._folder())
        if found:
            return found[0]
        return head_fingerprint(self.load()[0].get_output_embeddings().weight)

    def _folder(self) -> Path:
        source = local_source(self.source)
        if Path(source).is_dir():
            return Path(source)
        try:
            return Path(snapshot_download(source, revision=self.revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError) as error:
            raise ModelLoadError(
                f"{self.source}: neither a folder nor in the local hub cache; correct the path or download it"
            ) from error


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
    source: str, *, revision: str | None, dtype: str, device_map: str, attention: str = "sdpa"
) -> tuple[PreTrainedModel, PromptRenderer]:
    """Load the folder, hub id or URI `source` without running any code of its own.

    Only what a URI names is downloaded: a hub id has to be in the local cache.

    Raises:
        ModelLoadError: it is not there, not a causal LM, or does not fit.
        TemplateError: its chat template cannot hold a conversation.
    """
    source = local_source(source)
    renderer = _load_renderer(source, revision)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attention,
            **_local(revision),
        )
    except _UNREADABLE as error:
        raise _unloadable(source, error) from error
    return model.eval(), renderer


_UNREADABLE = (OSError, ValueError, ImportError, SafetensorError, torch.OutOfMemoryError)


def _load_renderer(source: str, revision: str | None) -> PromptRenderer:
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise ModelLoadError(
            f"{source}: no such model folder on node {socket.gethostname()}; correct model.path, put it on a "
            "disk that every node shares, use model: {uri: …}, or build it into the image"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_local(revision))
    except _UNREADABLE as error:
        raise _unloadable(source, error) from error
    renderer = PromptRenderer(tokenizer)
    renderer.self_test()
    return renderer


def _local(revision: str | None) -> dict[str, Any]:
    return {"revision": revision, "local_files_only": True, "trust_remote_code": False}


def _unloadable(source: str, error: BaseException) -> ModelLoadError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelLoadError(f"{source}: cannot be loaded: {reason}; correct the model or its files")
