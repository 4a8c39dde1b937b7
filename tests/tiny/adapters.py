"""LoRA adapters for tiny models, in PEFT's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.reference_loop import ReferenceModel

RANK = 8


def save_tiny_adapter(base: Path, folder: Path, seed: int, *, target: str = "q_proj") -> ReferenceModel:
    """Write a random adapter for the base's `q_proj` to `folder`. Returns the base with it merged in.

    With another `target` the files name modules that the base does not have.
    """
    generator = torch.Generator().manual_seed(seed)
    reference = ReferenceModel(base)
    tensors: dict[str, torch.Tensor] = {}
    for number, layer in enumerate(reference.model.model.layers):
        weight = layer.self_attn.q_proj.weight
        a = torch.randn(RANK, weight.shape[1], generator=generator)
        b = torch.randn(weight.shape[0], RANK, generator=generator)
        weight.data += b @ a  # the scale, lora_alpha / r, is 1
        key = f"base_model.model.model.layers.{number}.self_attn.{target}"
        tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    write_adapter_files(folder, tensors, target_modules=[target])
    return reference


def write_adapter_files(folder: Path, tensors: Mapping[str, torch.Tensor], **settings: Any) -> None:
    """Of an adapter of rank `RANK` for `q_proj`, if the settings name no other modules."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))


def write_adapter(folder: Path, *, width: int = 8, rank: int = RANK, seed: int = 0) -> Path:
    """Write only the files, for a model with hidden states of this width."""
    tensors = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.full((rank, width), seed),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.full((width, rank), seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
