"""What the engine must know of a model: the checkpoint, its window, where its turns end."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experts.checkpoint import load_checkpoint, local_source
from experts.engine.config import TransformersConfig
from experts.errors import ModelLoadError
from experts.prompt import PromptRenderer


@dataclass(frozen=True)
class LoadedModel:
    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    renderer: PromptRenderer
    max_model_len: int
    stop_ids: frozenset[int]
    tokenizer_fingerprint: str


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
    tokenizer = renderer.tokenizer
    return LoadedModel(
        Path(source).name if Path(source).is_dir() else source,
        model,
        tokenizer,
        renderer,
        _max_model_len(source, model, config),
        _stop_ids(model, tokenizer),
        sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
    )


def _require_one_device(source: str, model: PreTrainedModel) -> None:
    """The paged KV cache is one tensor on one device; weights may be offloaded, layers may not be spread."""
    placed = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    accelerators = placed - {"cpu", "disk"}
    if len(accelerators) > 1:
        raise ModelLoadError(
            f"{source}: engine.device_map spreads it over {', '.join(sorted(accelerators))}, but this engine "
            "keeps the KV cache on one device; use a smaller dtype or a device_map with one device"
        )


def _max_model_len(source: str, model: PreTrainedModel, config: TransformersConfig) -> int:
    trained: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if trained is None and config.max_model_len is None:
        raise ModelLoadError(f"{source}: config.json names no context window; set engine.max_model_len")
    if trained and config.max_model_len is not None and config.max_model_len > trained:
        raise ModelLoadError(
            f"{source}: engine.max_model_len is {config.max_model_len}, but the model takes {trained} tokens"
        )
    return config.max_model_len or trained or 0


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*listed, tokenizer.eos_token_id] if i is not None)
