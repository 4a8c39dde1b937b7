"""The files of a LoRA adapter: finds and checks them without loading weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from experts.errors import ModelLoadError
from experts.fetch import fetch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
INVOCATION_TOKENS = "alora_invocation_tokens"  # PEFT's setting that makes an activated LoRA
# Modules that read the hidden state, so that the input of their lora_A is as wide as the model.
_READS_HIDDEN = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj)\.lora_A\.")
# Settings of PEFT with which an adapter is more than two matrices beside a linear module, and what they add.
_WHOLE_MODEL = {
    "use_dora": "DoRA",
    "modules_to_save": "modules that were trained whole",
    "lora_bias": "biases",
    "target_parameters": "parameters outside of linear modules",
    "trainable_token_indices": "embeddings",
    "layer_replication": "repeated layers",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}


# How an adapter takes over from its base within one sequence: as it was trained to, or although it was not.
Invocation = Literal["exact", "approximate"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """`rank`: the largest of its matrices. `hidden_size`: of its base model; None if no matrix shows it.
    `settings`: the content of its configuration file."""

    folder: Path
    rank: int
    hidden_size: int | None
    settings: Mapping[str, Any]

    @property
    def invocation(self) -> tuple[int, ...]:
        """The token ids from which on an activated LoRA applies; empty for any other LoRA."""
        return tuple(self.settings.get(INVOCATION_TOKENS) or ())

    def activation(self, invocation: Invocation | None) -> tuple[int, ...] | None:
        """Where the adapter applies, for `activation_start`. `invocation`: None if it never takes over.

        Raises:
            ModelLoadError: it cannot take over in this way.
        """
        if invocation == "exact" and not self.invocation:
            raise ModelLoadError(
                f"{self.folder}: is an ordinary LoRA, which was trained to read whole prompts; set "
                "adapter.invocation: approximate, or train it with PEFT's alora_invocation_tokens"
            )
        if invocation == "approximate" and self.invocation:
            raise ModelLoadError(
                f"{self.folder}: is an activated LoRA, for which adapter.invocation: approximate has no "
                "effect; remove it"
            )
        return self.invocation if invocation or self.invocation else None

    def require_fit(self, *, hidden_size: int | None, max_rank: int) -> None:
        """Raises ModelLoadError if the adapter is for another base, its rank is above `max_rank`, or it
        changes more of the model than engines can change for single rows of a batch."""
        for setting, feature in _WHOLE_MODEL.items():
            if self.settings.get(setting):
                raise not_by_row(self.folder, feature)
        if self.settings.get("bias", "none") != "none":
            raise not_by_row(self.folder, "biases")
        if self.hidden_size and hidden_size and self.hidden_size != hidden_size:
            raise ModelLoadError(
                f"{self.folder}: was trained on a model of hidden size {self.hidden_size}, the base here has "
                f"{hidden_size}; use the base that it was trained on"
            )
        if self.rank > max_rank:
            raise ModelLoadError(
                f"{self.folder}: has rank {self.rank}, above engine.max_adapter_rank {max_rank}; raise it"
            )


def not_by_row(folder: Path, feature: str) -> ModelLoadError:
    """The error for an adapter with a feature that an engine cannot apply to single rows of a batch."""
    return ModelLoadError(
        f"{folder}: trains {feature}, which cannot be applied to single rows of a batch; merge it into a "
        "model of its own with model: {path: …, adapter: …}"
    )


def activation_start(activation: Sequence[int] | None, ids: Sequence[int], *, is_at_start: bool) -> int:
    """The position in `ids` from which on an adapter applies; the base alone computes what is before.

    `ids`: the tokens before the adapter's first one. `activation`: as from `Adapter.activation`; None: the
    adapter applies everywhere. At the start of an answer (`is_at_start`) it applies from the last invocation
    sequence on, as in PEFT. Within an answer, and if there is no such sequence, it applies from the last
    token on.
    """
    if activation is None:
        return 0
    if activation and is_at_start:
        sought = list(activation)
        for start in range(len(ids) - len(sought), -1, -1):
            if ids[start] == sought[0] and list(ids[start : start + len(sought)]) == sought:
                return start
    return len(ids) - 1


def adapter_folder(source: str) -> Path:
    """The folder at a path, or at a URI, which is fetched if necessary. Raises ModelLoadError."""
    return fetch(source, CONFIG) if "://" in source else Path(source)


def read_adapter(folder: Path) -> Adapter:
    """Reads the configuration and the shapes, but no weights.

    Raises:
        ModelLoadError: the files are not a LoRA adapter, incomplete, or a pickle.
    """
    settings = _lora_settings(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelLoadError(
            f"{folder}: has no {WEIGHTS}; save the adapter as safetensors, the only format that is loaded"
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
    rank = max(shape[0] for shape in inputs.values())
    return Adapter(folder, rank, min(widths, default=None), settings)


def adapter_digest(folder: Path) -> str:
    """16 hex digits over the content of the adapter's files. Raises ModelLoadError."""
    digest = hashlib.sha256()
    try:
        for name in (CONFIG, WEIGHTS):
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise ModelLoadError(f"{folder}: cannot be read: {error.strerror}; copy it there again") from error
    return digest.hexdigest()[:16]


def adapted_fingerprint(fingerprint: str, folder: Path) -> str:
    """Of a model with this fingerprint after an adapter is merged into it: its hidden states are other ones,
    even if its output head is the same. Raises ModelLoadError."""
    return hashlib.sha256(f"{fingerprint} {adapter_digest(folder)}".encode()).hexdigest()[:16]


def _lora_settings(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelLoadError(f"{folder}: no such folder; put the adapter there or correct the path")
    if not (folder / CONFIG).is_file():
        raise ModelLoadError(f"{folder}: has no {CONFIG}; name the folder of a LoRA adapter")
    try:
        settings: Any = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{folder / CONFIG}: is broken: {error}; copy it there again") from error
    kind = settings.get("peft_type", "LORA") if isinstance(settings, dict) else None
    if kind != "LORA":
        raise ModelLoadError(f"{folder / CONFIG}: peft_type {kind} is not LORA; use a LoRA adapter")
    return dict(settings)
