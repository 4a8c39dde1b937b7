"""A few steps of training on a tiny model: what is written, and that PEFT reads it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.smollm2.query_set import train_queries
from examples.smollm2.train import BASE, IGNORED, Recipe, question_labels, train_adapter
from experts.adapter import CONFIG, WEIGHTS, read_adapter
from experts.prompt import PromptRenderer
from experts.synthesize.user_turn import UserTurn
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


def test_an_adapter_is_trained_further_from_where_it_stands(checkpoint, tmp_path):
    first, further = tmp_path / "first", tmp_path / "further"
    train_adapter(checkpoint, "roman", first, RECIPE, lambda step, loss: None)
    still = replace(RECIPE, learning_rate=0.0)
    train_adapter(checkpoint, "roman", further, still, lambda step, loss: None, start=first)
    before, after = load_file(first / WEIGHTS), load_file(further / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert settings_of(further) == settings_of(first)


def settings_of(adapter: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((adapter / CONFIG).read_text())
    return {**settings, "target_modules": sorted(settings["target_modules"])}  # PEFT writes a set


def test_the_first_question_of_each_conversation_is_what_an_expert_learns_to_ask(checkpoint):
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(checkpoint))
    tokenizer = renderer.tokenizer
    questions = train_queries(20, 0, seed=1)
    assert any(len(question.messages) > 1 for question in questions)
    prompts = [torch.tensor(renderer.chat(question.messages)) for question in questions]
    labels = question_labels(pad_sequence(prompts, batch_first=True), UserTurn.of(renderer))
    for question, row in zip(questions, labels, strict=True):
        asked = tokenizer.decode(row[row != IGNORED])
        assert asked == question.messages[0]["content"] + tokenizer.eos_token


def test_an_expert_that_learns_to_ask_has_another_loss_and_other_weights(checkpoint, tmp_path):
    def trained(question_weight: float) -> tuple[float, dict[str, torch.Tensor]]:
        losses: list[float] = []
        folder, recipe = tmp_path / f"{question_weight}", replace(RECIPE, question_weight=question_weight)
        train_adapter(checkpoint, "roman", folder, recipe, lambda step, loss: losses.append(loss))
        return losses[0], load_file(folder / WEIGHTS)

    (loss, weights), (asking_loss, asking) = trained(0.0), trained(0.5)
    assert asking_loss > 1.2 * loss
    assert any(not torch.equal(weight, asking[name]) for name, weight in weights.items())
