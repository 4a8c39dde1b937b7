"""A LoRA adapter's weights added to those of its base: the model that an engine makes of the two."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from experts.adapter import CONFIG, WEIGHTS, read_adapter
from experts.errors import ModelLoadError

_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_A\.weight")


@torch.no_grad()
def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Changes the model in place.

    Raises ModelLoadError: the adapter is unreadable, another model's, or more than LoRA on linear layers.
    """
    read_adapter(folder)
    config = json.loads((folder / CONFIG).read_bytes())
    tensors = load_file(folder / WEIGHTS)
    keys = {key: found[1] for key in sorted(tensors) if (found := _KEY.fullmatch(key))}
    merged = {key.replace(".lora_A.", which) for key in keys for which in (".lora_A.", ".lora_B.")}
    if others := sorted(tensors.keys() - merged):
        raise ModelLoadError(
            f"{folder}: {others[0]} is no LoRA matrix of a linear layer (DoRA, biases, embeddings, modules "
            "saved whole are not merged); use labelled queries, which need no merged model"
        )
    for key, module in keys.items():
        a, b = tensors[key], tensors.get(key.replace(".lora_A.", ".lora_B."))
        weight = _weight(model, module)
        if b is None or weight is None or (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise ModelLoadError(f"{folder}: {key} fits no matrix of the base; use that which it is made for")
        delta = _scale(config, module, len(a)) * (b.float() @ a.float())
        weight += delta.to(weight.device, weight.dtype)


def _weight(model: nn.Module, module: str) -> torch.Tensor | None:
    try:
        found = model.get_submodule(module)
    except AttributeError:
        return None
    return found.weight.data if isinstance(found, nn.Linear) else None


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """PEFT's own rules: the first pattern that is the end of the module's name counts."""
    patterns = config.get("alpha_pattern") or {}
    matching = (alpha for name, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({name})", module))
    alpha = float(next(matching, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
