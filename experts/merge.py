"""Merges a LoRA adapter into its base model, through PEFT: one plain model, as an engine serves the two."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from experts.adapter import read_adapter
from experts.errors import ModelLoadError

_ADAPTER_NAME = "default"


def merge_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Adds the adapter's weights to those of `model`, in place, by PEFT's own rules: LoRA, rsLoRA, DoRA,
    embeddings, biases and modules that were saved whole.

    Raises ModelLoadError: PEFT is not installed, or the adapter is unreadable or was made for another base.
    """
    if read_adapter(folder).invocation:
        raise ModelLoadError(
            f"{folder}: is an activated LoRA, which cannot be merged; give the expert adapter: {{path: …, "
            "pool: meta}"
        )
    if find_spec("peft") is None:
        raise ModelLoadError(
            f"{folder}: merging an adapter needs peft; run `pip install 'expert-token-routing[learn]'`"
        )
    from peft import PeftConfig, PeftModel  # slow to import, and only adapters need it

    try:
        merged = PeftModel(model, PeftConfig.from_pretrained(str(folder)), _ADAPTER_NAME)
        loaded = merged.load_adapter(str(folder), _ADAPTER_NAME, torch_device=str(model.device))
        if unused := [*loaded.unexpected_keys, *loaded.missing_keys]:
            raise _misfit(folder, unused[0])
        merged.merge_and_unload()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise _misfit(folder, (str(error).splitlines() or [type(error).__name__])[0]) from error


def _misfit(folder: Path, reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"{folder}: the adapter does not fit the base: {reason}; use the base that it was trained on"
    )
