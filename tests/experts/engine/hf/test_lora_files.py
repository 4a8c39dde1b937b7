"""Reads PEFT's files, and applies them as PEFT does without merging; what it cannot apply it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from experts.adapter import read_adapter
from experts.engine.hf.lora_files import LoraWeights, read_weights
from experts.engine.hf.lora_layers import LoraLayers
from experts.errors import ModelLoadError
from tests.tiny.models import save_tiny_llama
from tests.tiny.peft_adapters import save_peft_adapter
from tests.tiny.tokenizers import byte_level

IDS = torch.tensor([[5, 6, 7, 8, 9]])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level())
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = byte_level()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


def with_adapter(model: nn.Module, adapter: Path) -> nn.Module:
    layers = LoraLayers(model, 2, CPU)
    layers.load(1, read(adapter, model, torch.float32))
    layers.begin_step([(1, IDS.shape[1])])
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"0.self_attn.v_proj": 2}, "alpha_pattern": {"q_proj": 9, "1.self_attn.v_proj": 3}},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.1\.mlp\.(up|down)_proj"},
        {"target_modules": ["k_proj", "o_proj", "gate_proj"], "layers_to_transform": [1]},
    ],
    ids=str,
)
def test_an_adapter_gives_the_logits_of_peft(base, tmp_path, settings):
    expected = logits(save_peft_adapter(base, tmp_path, **settings))
    model = loaded(base)
    assert float((logits(model) - expected).abs().max()) > 0.01  # the adapter does change the model
    torch.testing.assert_close(logits(with_adapter(model, tmp_path)), expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_transposed_weights_gives_the_logits_of_peft(gpt2, tmp_path):
    settings: dict[str, Any] = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    expected = logits(save_peft_adapter(gpt2, tmp_path, **settings))
    model = loaded(gpt2)
    assert float((logits(model) - expected).abs().max()) > 0.01
    torch.testing.assert_close(logits(with_adapter(model, tmp_path)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")  # such adapters cannot be merged
@pytest.mark.parametrize(
    ("settings", "feature"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules that were trained whole"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embeddings"),
        ({"target_modules": ["q_proj", "lm_head"]}, "'lm_head'"),
        (
            {"target_modules": [], "target_parameters": ["q_proj.weight"]},
            "parameters outside of linear modules",
        ),
        ({"trainable_token_indices": [3, 4]}, "embeddings"),
    ],
    ids=str,
)
def test_what_is_more_than_two_matrices_of_a_linear_module_is_refused(base, tmp_path, settings, feature):
    save_peft_adapter(base, tmp_path, **settings)
    message = refusal(base, tmp_path)
    assert message == (
        f"{tmp_path}: trains {feature}, which cannot be applied to single rows of a batch; merge it into a "
        "model of its own with model: {path: …, adapter: …}"
    )


def read(folder: Path, model: nn.Module, dtype: torch.dtype) -> dict[str, LoraWeights]:
    adapter = read_adapter(folder)
    adapter.require_fit(hidden_size=None, max_rank=4)
    return read_weights(adapter, model, dtype)


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        read(adapter, loaded(base), torch.float16)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("matrix", "change", "message"),
    [
        ("lora_A", lambda weight: weight[:, :8].contiguous(), "has 32 inputs .* trained on 8 and 32"),
        ("lora_B", lambda weight: weight[:, :2].contiguous(), "has 32 inputs"),
        ("lora_B", lambda weight: weight * 1e9, r"not finite in torch.float16"),
        ("lora_B", None, "has one of two matrices"),
    ],
    ids=["narrow", "ranks", "overflow", "missing"],
)
def test_weights_that_do_not_fit_the_model_are_refused(base, tmp_path, matrix, change, message):
    save_peft_adapter(base, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    key = f"base_model.model.model.layers.0.self_attn.q_proj.{matrix}.weight"
    changed = {key: change(tensors[key])} if change else {}
    save_file({name: each for name, each in tensors.items() if name != key} | changed, tmp_path / "a.tmp")
    (tmp_path / "a.tmp").replace(tmp_path / "adapter_model.safetensors")
    assert re.search(message, refusal(base, tmp_path))


def test_an_adapter_of_modules_that_the_model_lacks_is_refused(gpt2, base, tmp_path):
    save_peft_adapter(base, tmp_path)
    assert "which the model does not have; use the base" in refusal(gpt2, tmp_path)
