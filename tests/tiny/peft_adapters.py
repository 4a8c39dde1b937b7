"""LoRA adapters that PEFT itself makes and saves, for tests that compare with PEFT. It is no part of the vLLM
environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from experts.checkpoint import Checkpoint


def save_peft_adapter(base: Path, folder: Path, *, seed: int = 1, **settings: Any) -> PeftModel:
    """Write an adapter with random weights in everything that it trains. Returns base and adapter, apart."""
    defaults = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    config: dict[str, Any] = defaults | settings
    model = get_peft_model(Checkpoint(str(base), dtype="float32").load()[0], LoraConfig(**config))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    embeds = "embed_tokens" in config["target_modules"]
    model.save_pretrained(str(folder), save_embedding_layers=embeds)
    return model.eval()
