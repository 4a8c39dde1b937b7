"""A LoRA adapter's files: where they come from, what they are made for, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from experts.errors import ModelLoadError
from experts.fetch import fetch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# Where an attention or MLP block takes in what the layer before it gave out: as wide as the model is.
_READS_HIDDEN = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj)\.lora_A\.")


@dataclass(frozen=True, slots=True)
class Adapter:
    """`rank` is the largest of its matrices; `hidden_size` that of its base, None where no name tells."""

    folder: Path
    rank: int
    hidden_size: int | None

    def require_fit(self, *, hidden_size: int | None, max_rank: int) -> None:
        """Raises ModelLoadError: it was made for another base, or there is no room for its rank."""
        if self.hidden_size and hidden_size and self.hidden_size != hidden_size:
            raise ModelLoadError(
                f"{self.folder}: was trained on a model of hidden size {self.hidden_size}, the base here has "
                f"{hidden_size}; use the base that it was trained on"
            )
        if self.rank > max_rank:
            raise ModelLoadError(
                f"{self.folder}: has rank {self.rank}, above engine.max_adapter_rank {max_rank}; raise that"
            )


def adapter_folder(source: str) -> Path:
    """The folder of a path, or of a URI that is fetched if need be. Raises ModelLoadError."""
    return fetch(source, CONFIG) if "://" in source else Path(source)


def read_adapter(folder: Path) -> Adapter:
    """Look at the files without loading weights.

    Raises:
        ModelLoadError: they are no LoRA adapter, not whole, or a pickle.
    """
    _require_lora(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelLoadError(
            f"{folder}: has no {WEIGHTS}; save the adapter as safetensors, for nothing else is loaded"
        )
    try:
        with safe_open(path, framework="numpy") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"{path}: is broken: {error}; copy it there again") from error
    inputs = {name: shape for name, shape in shapes.items() if ".lora_A." in name}
    if not inputs:
        raise ModelLoadError(f"{path}: holds no lora_A; name the folder of a LoRA adapter")
    widths = {shape[-1] for name, shape in inputs.items() if _READS_HIDDEN.search(name)}
    return Adapter(folder, max(shape[0] for shape in inputs.values()), min(widths, default=None))


def adapter_digest(folder: Path) -> str:
    """Of all that makes up the adapter: the same wherever it lies and whenever it was copied there.

    Raises ModelLoadError.
    """
    digest = hashlib.sha256()
    try:
        for name in (CONFIG, WEIGHTS):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise ModelLoadError(f"{folder}: cannot be read: {error.strerror}; copy it there again") from error
    return digest.hexdigest()[:16]


def _require_lora(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelLoadError(f"{folder}: no such folder; put the adapter there or correct the path")
    if not (folder / CONFIG).is_file():
        raise ModelLoadError(f"{folder}: has no {CONFIG}; name the folder of a LoRA adapter")
    try:
        config: Any = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{folder / CONFIG}: is broken: {error}; copy it there again") from error
    kind = config.get("peft_type", "LORA") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ModelLoadError(f"{folder / CONFIG}: peft_type {kind} is no LoRA; use a LoRA adapter")
