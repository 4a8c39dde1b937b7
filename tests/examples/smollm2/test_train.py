"""A few steps of training on a tiny model: what is written, and that PEFT reads it."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from examples.smollm2.train import BASE, Recipe, train_adapter
from experts.adapter import CONFIG, WEIGHTS, read_adapter
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

RECIPE = Recipe(rank=2, first_layer=1, batch_size=2, num_steps=3, num_warmup_steps=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level())
    return folder


def test_the_adapter_is_small_names_its_base_and_changes_the_upper_layers_alone(checkpoint, tmp_path):
    losses: list[float] = []
    train_adapter(checkpoint, "roman", tmp_path / "roman", RECIPE, lambda step, loss: losses.append(loss))
    assert len(losses) == RECIPE.num_steps
    weights = load_file(tmp_path / "roman" / WEIGHTS)
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert all(".layers.1." in name for name in weights)
    assert json.loads((tmp_path / "roman" / CONFIG).read_text())["base_model_name_or_path"] == BASE
    assert read_adapter(tmp_path / "roman").rank == RECIPE.rank

    ids = torch.arange(20)[None]
    base = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, str(tmp_path / "roman")).eval()(ids).logits
    assert (before - after).abs().max() > 1e-4
