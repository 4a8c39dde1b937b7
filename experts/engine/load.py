"""A model in this process, for the engine that runs it with Hugging Face's own code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from experts.checkpoint import load_checkpoint, local_source
from experts.engine.config import TransformersConfig
from experts.engine.model_text import ModelText
from experts.errors import ModelLoadError


@dataclass(frozen=True)
class LoadedModel:
    model: PreTrainedModel
    text: ModelText


def load(
    source: str,
    config: TransformersConfig,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load the folder or hub id `source` from local files, or fetch the URI first; code of its own runs only
    with `trust_remote_code`.

    Raises:
        ModelLoadError: it is not there, not a causal LM, or does not fit.
        TemplateError: its chat template cannot hold a conversation.
    """
    source = local_source(source)
    model, renderer = load_checkpoint(
        source,
        revision=revision,
        dtype=config.dtype,
        device_map=config.device_map,
        attention=config.attention,
        trust_remote_code=trust_remote_code,
    )
    _require_one_device(source, model)
    name = Path(source).name if Path(source).is_dir() else source
    text = ModelText.of(name, renderer, model.config, model.generation_config, config.max_model_len)
    return LoadedModel(model, text)


def _require_one_device(source: str, model: PreTrainedModel) -> None:
    """The paged KV cache is one tensor on one device; weights may be offloaded, layers may not be spread."""
    placed = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    accelerators = placed - {"cpu", "disk"}
    if len(accelerators) > 1:
        raise ModelLoadError(
            f"{source}: engine.device_map spreads it over {', '.join(sorted(accelerators))}, but this engine "
            "keeps the KV cache on one device; use a smaller dtype or a device_map with one device"
        )
