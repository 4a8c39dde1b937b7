"""What the files of a checkpoint say about embeddings, as sentence-transformers writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.engine.config.embedding import EmbeddingConfig, Pooling
from experts.errors import ModelLoadError

_MODES = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_MODULES = ("Transformer", "Pooling", "Normalize")  # a module beyond these is not run here


@dataclass(frozen=True, slots=True)
class EmbeddingRules:
    """How token vectors become the vector of an input. `max_tokens`: the longest input, if a file says so."""

    pooling: Pooling
    normalize: bool
    max_tokens: int | None = None


def embedding_rules(folder: Path, name: str, config: EmbeddingConfig) -> EmbeddingRules:
    """What `config` says, and what the files in `folder` say where it is silent. `name` is for messages.

    Raises:
        ModelLoadError: neither says how to pool, or the model needs what this engine does not do.
    """
    modules = _read(folder / "modules.json", name)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules or ()]
    if unknown := [kind for kind in kinds if kind not in _MODULES]:
        raise ModelLoadError(f"{name}: modules.json has a {unknown[0]}, which this engine does not run")
    normalize = config.normalize
    if normalize is None:
        normalize = modules is None or "Normalize" in kinds
    limits = _read(folder / "sentence_bert_config.json", name) or {}
    return EmbeddingRules(_pooling(folder, name, config), normalize, limits.get("max_seq_length"))


def _pooling(folder: Path, name: str, config: EmbeddingConfig) -> Pooling:
    if config.pooling is not None:
        return Pooling(config.pooling)
    said = _read(folder / "1_Pooling" / "config.json", name)
    if said is None:
        raise ModelLoadError(f"{name}: has no 1_Pooling/config.json; set engine.pooling: mean, cls or last")
    modes = {key for key, is_on in said.items() if key.startswith("pooling_mode_") and is_on is True}
    if "pooling_mode" in said:
        modes = {f"pooling_mode_{said['pooling_mode']}{suffix}" for suffix in ("_tokens", "_token", "")}
        modes &= _MODES.keys()
    if len(modes) != 1 or not modes <= _MODES.keys():
        raise ModelLoadError(
            f"{name}: 1_Pooling/config.json asks for a pooling that this engine does not do; set "
            "engine.pooling if mean, cls or last gives the same"
        )
    return _MODES[modes.pop()]


def _read(path: Path, name: str) -> Any:
    """The JSON in the file; None if there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{name}: {path.name} cannot be read ({type(error).__name__})") from error
