"""A merged LoRA adapter computes what PEFT computes with base and adapter apart."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experts.checkpoint import Checkpoint
from experts.errors import ModelLoadError
from tests.tiny.adapters import save_tiny_adapter
from tests.tiny.models import save_tiny_llama
from tests.tiny.peft_adapters import save_peft_adapter
from tests.tiny.tokenizers import byte_level

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level())
    return folder


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        Checkpoint(str(base), adapter=str(adapter)).load()
    message = str(caught.value)
    assert message.startswith(f"{adapter}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"alpha_pattern": {"q_proj": 9}, "rank_pattern": {"0.self_attn.v_proj": 2}},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
    ],
    ids=str,
)
def test_a_merged_adapter_gives_the_logits_of_base_and_adapter(
    base: Path, tmp_path: Path, settings: dict[str, Any]
):
    unmerged = save_peft_adapter(base, tmp_path, **settings)
    merged, _ = Checkpoint(str(base), dtype="float32", adapter=str(tmp_path)).load()
    plain, _ = Checkpoint(str(base), dtype="float32").load()
    assert not any("lora" in name for name, _ in merged.named_modules())
    with torch.inference_mode():
        logits, expected = merged(IDS).logits, unmerged(IDS).logits
        assert float((plain(IDS).logits - expected).abs().max()) > 0.01  # the adapter does change the model
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_with_an_adapter_is_loaded_with_both(base: Path, tmp_path: Path):
    expected = save_tiny_adapter(base, tmp_path / "law", seed=1).model.state_dict()
    model, _ = Checkpoint(str(base), dtype="float32", adapter=str(tmp_path / "law")).load()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name])


def test_an_adapter_for_modules_that_the_base_lacks_is_refused(base: Path, tmp_path: Path):
    save_tiny_adapter(base, tmp_path, seed=1, target="nonsense")
    message = refusal(base, tmp_path)
    assert "does not fit the base: Target modules" in message
    assert message.endswith("use the base that it was trained on")


def test_an_adapter_of_another_width_is_refused(base: Path, tmp_path: Path):
    save_tiny_adapter(base, tmp_path, seed=1)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    narrow = {
        key: value[:, :-1].contiguous() if ".lora_A." in key else value for key, value in tensors.items()
    }
    save_file(narrow, tmp_path / "adapter_model.safetensors")
    assert "does not fit the base: " in refusal(base, tmp_path)


@pytest.mark.parametrize("change", ["unknown", "missing"])
def test_weights_that_would_be_left_out_are_refused(base: Path, tmp_path: Path, change: str):
    """Regression: weights that the merge did not know were skipped, so another model scored the answers."""
    save_tiny_adapter(base, tmp_path, seed=1)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    if change == "unknown":
        tensors[key] = torch.ones(8)
    else:
        del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert "self_attn.q_proj.lora_" in refusal(base, tmp_path)


def test_an_unreadable_configuration_is_refused(base: Path, tmp_path: Path):
    save_tiny_adapter(base, tmp_path, seed=1)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": "eight"}))
    assert "does not fit the base: " in refusal(base, tmp_path)


def test_without_peft_the_extra_to_install_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_tiny_adapter(base, tmp_path, seed=1)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("experts.merge.find_spec", lambda name: None if name == "peft" else find_spec(name))
    assert "pip install 'expert-token-routing[learn]'" in refusal(base, tmp_path)
