"""Loads a model into this process, for Hugging Face's own engine."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from experts.checkpoint import Checkpoint, local_source
from experts.engine.config import TransformersConfig
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.parsing.registry import choose
from experts.errors import ModelLoadError


@dataclass(frozen=True)
class LoadedModel:
    """`fingerprint`: of the output head, as the files have it."""

    model: PreTrainedModel
    tokenizer: ModelTokenizer
    fingerprint: str


def load(
    source: str,
    config: TransformersConfig,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    adapter: str | None = None,
) -> LoadedModel:
    """Load a checkpoint.

    Args:
        source: a folder, a hub id (of `revision`) in the local cache, or a URI, which is downloaded first.
        trust_remote_code: let the checkpoint's own Python files run.
        adapter: folder or URI of a LoRA adapter to merge into the model.

    Raises:
        ModelLoadError: it does not exist, is not a causal LM, or does not fit into memory.
        TemplateError: its chat template cannot hold a conversation.
    """
    source = local_source(source)
    checkpoint = Checkpoint(source, revision, config.dtype, config.device_map, trust_remote_code, adapter)
    model, renderer = checkpoint.load(attention=config.attention)
    _require_one_device(source, model)
    window, generation = config.max_model_len, model.generation_config
    tokenizer = ModelTokenizer.of(checkpoint.name, renderer, model.config, generation, window)
    template = str(renderer.tokenizer.chat_template or "")
    parsers = choose(template, config.tool_parser, config.reasoning_parser)
    tokenizer = tokenizer.parsed_by(parsers, config.chat_template_kwargs)
    return LoadedModel(model, tokenizer, checkpoint.fingerprint())


def _require_one_device(source: str, model: PreTrainedModel) -> None:
    """The paged KV cache is one tensor on one device. Weights may be offloaded, but layers not spread."""
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    accelerators = devices - {"cpu", "disk"}
    if len(accelerators) > 1:
        raise ModelLoadError(
            f"{source}: engine.device_map spreads it over {', '.join(sorted(accelerators))}, but this engine "
            "keeps the KV cache on one device; use a smaller dtype or a device_map with one device"
        )
