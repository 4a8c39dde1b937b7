"""A model with its adapter merged in, as files, for engines that read checkpoints themselves."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from experts.adapter import adapter_digest, adapter_folder
from experts.cache import CACHE_VARIABLE, cache_dir, make_once
from experts.checkpoint import Checkpoint
from experts.errors import ModelLoadError

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".pt", ".gguf")


def merged_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The same model without an adapter: `checkpoint` itself if it has none, or else a merged copy. It is
    written to the cache of this machine at the first call, and again when a file has changed.

    Raises:
        ModelLoadError: the model or the adapter cannot be loaded, or the copy cannot be written.
    """
    if checkpoint.adapter is None:
        return checkpoint
    folder = _folder(checkpoint, adapter_folder(checkpoint.adapter))
    try:
        make_once(folder, lambda empty: _write(checkpoint, empty))
    except OSError as error:
        raise ModelLoadError(
            f"{folder}: cannot be written: {error.strerror}; make room there, or set {CACHE_VARIABLE} to "
            "another folder"
        ) from error
    return replace(checkpoint, source=str(folder), revision=None, adapter=None)


def _folder(checkpoint: Checkpoint, adapter: Path) -> Path:
    base = checkpoint.folder()
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _files(base)]
    identity = repr((str(base), files, adapter_digest(adapter), checkpoint.dtype))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return cache_dir() / "merged" / digest / base.name


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    model, _ = replace(checkpoint, device="cpu").load()
    model.save_pretrained(folder)
    for path in _files(checkpoint.folder()):  # tokenizer, chat template, own code
        if not path.name.endswith(_WEIGHTS) and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
