"""A LoRA adapter merged into its base, beside PEFT's arithmetic written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experts.checkpoint import Checkpoint
from experts.errors import ModelLoadError
from experts.merge import merge_adapter
from tests.tiny_adapters import RANK, save_tiny_adapter
from tests.tiny_models import save_tiny_llama
from tests.tiny_tokenizers import byte_level


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level())
    return folder


def test_a_checkpoint_with_an_adapter_is_loaded_with_both(base: Path, tmp_path: Path):
    expected = save_tiny_adapter(base, tmp_path / "law", seed=1).model.state_dict()
    model, _ = Checkpoint(str(base), dtype="float32", adapter=str(tmp_path / "law")).load()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name])


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 4}, 4 / RANK),
        ({"lora_alpha": 4, "use_rslora": True}, 4 / RANK**0.5),
        ({"lora_alpha": 4, "alpha_pattern": {"q_proj": 6}}, 6 / RANK),
        ({"lora_alpha": 4, "alpha_pattern": {"1.self_attn.q_proj": 6}}, 4 / RANK),
    ],
)
def test_its_weights_are_scaled_as_its_configuration_says(
    base: Path, tmp_path: Path, settings: dict[str, Any], scale: float
):
    save_tiny_adapter(base, tmp_path, seed=1)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | settings))
    model, _ = Checkpoint(str(base), dtype="float32").load()
    before = model.state_dict()["model.layers.0.self_attn.q_proj.weight"].clone()
    merge_adapter(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (
        tensors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{which}.weight"] for which in "AB"
    )
    after = model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(after, before + scale * (b @ a))


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path):
    save_tiny_adapter(base, tmp_path, seed=1, target="nonsense")
    with pytest.raises(ModelLoadError, match=r"nonsense.lora_A.weight fits no matrix of the base"):
        Checkpoint(str(base), adapter=str(tmp_path)).load()


def test_what_is_more_than_lora_on_linear_layers_is_refused_and_not_left_out(base: Path, tmp_path: Path):
    """Regression: a part that the merge does not know was passed over, so another model scored answers."""
    save_tiny_adapter(base, tmp_path, seed=1)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    extra = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    save_file({**tensors, extra: torch.ones(8)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelLoadError, match=r"lora_magnitude_vector is no LoRA matrix of a linear layer"):
        Checkpoint(str(base), adapter=str(tmp_path)).load()
