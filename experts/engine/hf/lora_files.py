"""Reads the weights of a LoRA adapter that PEFT saved, for a model that applies it row by row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from experts.adapter import WEIGHTS, Adapter, not_by_row
from experts.errors import ModelLoadError

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """What an adapter adds to the output of one linear module for a row x: (x aᵀ) b.

    `a`: [r, in]. `b`: [r, out], the transposed B of LoRA times its scale.
    """

    a: Tensor
    b: Tensor


def read_weights(adapter: Adapter, model: nn.Module, dtype: torch.dtype) -> dict[str, LoraWeights]:
    """The weights by name of the module in `model`, on the CPU.

    Raises:
        ModelLoadError: they cannot be read, were made for another model, or are for more than linear modules
            that get every row.
    """
    try:
        tensors = load_file(adapter.folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"{adapter.folder}: is broken: {error}; copy it there again") from error
    matrices = _by_module(adapter.folder, tensors)
    return {name: _weights(adapter, model, name, pair, dtype) for name, pair in matrices.items()}


def _by_module(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By name of the module, its matrices "A" and "B"."""
    if any(".lora_embedding_" in key for key in tensors):
        raise not_by_row(folder, "embeddings")
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _NAME.fullmatch(key)
        if match is None:
            raise not_by_row(folder, f"'{key}'")
        modules.setdefault(match["module"], {})[match["matrix"]] = tensor
    return modules


def _weights(
    adapter: Adapter, model: nn.Module, name: str, matrices: Mapping[str, Tensor], dtype: torch.dtype
) -> LoraWeights:
    if len(matrices) != 2:
        raise ModelLoadError(f"{adapter.folder}: has one of two matrices of '{name}'; copy it there again")
    a, b = matrices["A"].float(), matrices["B"].float()
    sizes = _linear_sizes(adapter.folder, model, name)
    if (a.shape[-1], b.shape[0], a.shape[0]) != (*sizes, b.shape[-1]):
        raise ModelLoadError(
            f"{adapter.folder}: '{name}' has {sizes[0]} inputs and {sizes[1]} outputs here, but the adapter "
            f"was trained on {a.shape[-1]} and {b.shape[0]}; use the base that it was trained on"
        )
    scaled = (b.T * _scale(adapter.settings, name, rank=a.shape[0])).contiguous()
    weights = LoraWeights(a.to(dtype), scaled.to(dtype))
    if not (weights.a.isfinite().all() and weights.b.isfinite().all()):
        raise ModelLoadError(
            f"{adapter.folder}: '{name}' has weights that are not finite in {dtype}; train it again or use "
            "another engine.dtype"
        )
    return weights


def _linear_sizes(folder: Path, model: nn.Module, name: str) -> tuple[int, int]:
    """(inputs, outputs) of a linear module that gets every row of a batch."""
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ModelLoadError(
            f"{folder}: adapts '{name}', which the model does not have; use the base that it was trained on"
        ) from error
    if ".experts." in name:
        raise not_by_row(folder, f"'{name}', one of a mixture of experts")
    for inputs, outputs in (("in_features", "out_features"), ("nx", "nf")):  # of nn.Linear; of Conv1D
        if hasattr(module, inputs) and name != "lm_head":
            return int(getattr(module, inputs)), int(getattr(module, outputs))
    raise not_by_row(folder, f"'{name}'")


def _scale(settings: Mapping[str, Any], name: str, *, rank: int) -> float:
    alpha = float(settings.get("lora_alpha") or 8)  # PEFT's default
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):  # PEFT's rule; the first match counts
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
