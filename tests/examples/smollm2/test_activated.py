"""A few steps of training an activated LoRA on a tiny model: what is learned is what PEFT applies."""

from functools import partial

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.smollm2.activated import INVOCATION, answer_loss, train_activated
from examples.smollm2.in_place import answers, readers
from examples.smollm2.query_set import held_out_queries
from examples.smollm2.train import IGNORED, Recipe, batches, train_adapter
from experts.adapter import read_adapter
from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.prompt import PromptRenderer
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

RECIPE = Recipe(rank=2, first_layer=0, batch_size=3, num_steps=2, num_warmup_steps=1, learning_rate=0.1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level())
    return folder


def test_the_adapter_is_an_activated_lora_and_its_loss_that_of_pefts_own_forward_pass(checkpoint, tmp_path):
    losses: list[float] = []
    train_activated(checkpoint, "roman", tmp_path, RECIPE, lambda step, loss: losses.append(loss))
    assert len(losses) == RECIPE.num_steps
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(checkpoint))
    invocation = renderer.tokenizer(INVOCATION, add_special_tokens=False)["input_ids"]
    assert read_adapter(tmp_path).invocation == tuple(invocation)

    lessons = next(batches(renderer, "roman", RECIPE, "train"))
    assert len({len(ids) for ids, _ in lessons}) > 1
    base = AutoModelForCausalLM.from_pretrained(checkpoint)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    loss_of = partial(answer_loss, num_invoking=len(invocation))
    with torch.no_grad():
        found = loss_of(model, lessons).item()
        assert found == pytest.approx(peft_loss(model, lessons), rel=1e-4)
        with model.disable_adapter():
            assert found != pytest.approx(loss_of(model, lessons).item(), rel=1e-2)


def peft_loss(model, lessons):
    """The mean loss of all tokens of answers, each lesson read as a whole."""
    each = [model(input_ids=ids[None], labels=labels[None]).loss * learned(labels) for ids, labels in lessons]
    return sum(each).item() / sum(learned(labels) for _, labels in lessons)


def learned(labels):
    return int((labels != IGNORED).sum())


async def test_each_reader_answers_in_its_own_way(checkpoint, tmp_path):
    train_adapter(checkpoint, "roman", tmp_path / "ordinary" / "roman", RECIPE, lambda step, loss: None)
    train_activated(checkpoint, "roman", tmp_path / "activated" / "roman", RECIPE, lambda step, loss: None)
    config = TransformersConfig(dtype="float32", max_adapters=3, max_streams=4, num_threads=1)
    engine = TransformersEngine(str(checkpoint), config)
    asked = held_out_queries(2, 0, seed=0)[:3]
    try:
        found = [
            await answers(engine, reader, asked)
            for reader in readers("roman", tmp_path / "activated", tmp_path / "ordinary")
        ]
    finally:
        await engine.close()
    assert all(len(texts) == len(asked) for texts in found)
    assert len(set(map(tuple, found))) == len(found)
