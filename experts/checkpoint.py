"""A Hugging Face checkpoint, from local files to device, with every failure in one line."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from experts.errors import ModelLoadError
from experts.prompt import PromptRenderer


def load_checkpoint(
    source: str, *, revision: str | None, dtype: str, device_map: str, attention: str = "sdpa"
) -> tuple[PreTrainedModel, PromptRenderer]:
    """Load the folder or hub id `source` without a download and without running any code of its own.

    Raises:
        ModelLoadError: it is not there, not a causal LM, or does not fit.
        TemplateError: its chat template cannot hold a conversation.
    """
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise ModelLoadError(f"{source}: no such model folder; correct model.path")
    where = {"revision": revision, "local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attention,
            **where,
        )
    except (OSError, ValueError, ImportError, SafetensorError, torch.OutOfMemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(
            f"{source}: cannot be loaded: {reason}; correct the model or its files"
        ) from error
    renderer = PromptRenderer(tokenizer)
    renderer.self_test()
    return model.eval(), renderer
