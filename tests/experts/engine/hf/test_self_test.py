"""Models that a continuous batch cannot compute are refused at the start; all others are computed rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from experts.checkpoint import load_checkpoint
from experts.engine.config.transformers import TransformersConfig
from experts.engine.hf import batching, paged_attention
from experts.engine.hf.engine import TransformersEngine
from experts.engine.hf.self_test import self_test
from experts.errors import ModelLoadError
from tests.tiny.tokenizers import byte_level

pytestmark = pytest.mark.models

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,  # large, so that attention matters
    "pad_token_id": None,
}
CAPPED = {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "sliding_window": 16}
SINKS = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}


def tiny(model_type: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(byte_level()), **{**COMMON, **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def check(model: PreTrainedModel) -> None:
    batching.prepare(model)
    self_test("tiny", model, byte_level())


def saved_and_loaded(model: PreTrainedModel, folder: Path, dtype: str = "float32") -> PreTrainedModel:
    model.save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return load_checkpoint(str(folder), revision=None, dtype=dtype, device_map="cpu")[0]


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 16}),
        ("gemma2", CAPPED),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 16, "num_hidden_layers": 6}),
        ("gpt_oss", SINKS),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_are_computed_rightly_pass(tmp_path, model_type, changes, dtype):
    model = saved_and_loaded(tiny(model_type, **changes), tmp_path, dtype)
    config = model.config.to_dict()
    check(model)
    assert model.config.to_dict() == config, "the sliding window is only shorter during the test"


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("mamba", {"state_size": 4}),
        ("bloom", {"n_layer": 2, "n_head": 4}),
        ("llama4_text", {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64}),
    ],
)
def test_models_that_cannot_be_batched_are_refused_with_what_can_run_them(model_type, changes):
    with pytest.raises(ModelLoadError, match=r"use engine: \{kind: vllm\}") as refused:
        check(tiny(model_type, **changes))
    assert "\n" not in str(refused.value)


def test_a_model_that_fails_only_at_its_second_token_is_refused():
    """Regression: it passed a probe of one token, and every client's answer ended its replica."""
    with pytest.raises(ModelLoadError, match=r"tiny: .* use engine: \{kind: vllm\}"):
        check(tiny("stablelm"))


@pytest.mark.parametrize("fault", ["ignores the cache", "no scaling", "sees other rows"])
def test_wrong_attention_is_found(monkeypatch, fault):
    def wrong(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("cache")
        if cache is not None and fault == "ignores the cache":
            cache.update(key, value, module.layer_idx, kwargs)
            kwargs["cache"] = None
            mask = None
        if cache is not None and fault == "no scaling":
            kwargs["scaling"] = 3.0
        if cache is not None and fault == "sees other rows" and mask is not None:
            mask = torch.zeros_like(mask)
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)

    model = tiny("llama")
    batching.prepare(model)
    AttentionInterface.register(paged_attention.NAME, wrong)
    try:
        with pytest.raises(ModelLoadError, match="computes wrong logits"):
            self_test("tiny", model, byte_level())
    finally:
        paged_attention.register()


def test_the_engine_refuses_such_a_model_when_it_is_created(tmp_path):
    tiny("stablelm").save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="continuous batching"):
        TransformersEngine(str(tmp_path), TransformersConfig(dtype="float32", num_threads=1))
