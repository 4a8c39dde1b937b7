"""Trains activated LoRAs: `python -m examples.smollm2.activated CHECKPOINT FOLDER [--domains DOMAIN …]`.

Such an expert can live in the meta's own engine: it applies from the tokens that open the assistant's turn
on, and uses what the meta has computed of the question. So the question needs no gradients: the base reads it
once, and only the opening of the turn and the answer are learned, by all layers. `python -m
examples.smollm2.in_place` compares the experts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from examples.smollm2.domains import DOMAINS
from examples.smollm2.train import (
    IGNORED,
    Lesson,
    Recipe,
    Report,
    batches,
    fit,
    new_adapter,
    print_progress,
    save,
)
from experts.prompt import PromptRenderer

# The end of SmolLM2's generation prompt: every answer comes after it.
INVOCATION = "<|im_start|>assistant\n"
# The adapter cannot change how the question is read, so it gets more of what is left to change.
RECIPE = Recipe(rank=16, alpha=32, first_layer=0, learning_rate=1e-3)


def train_activated(checkpoint: Path, domain: str, folder: Path, recipe: Recipe, report: Report) -> None:
    """Write the activated adapter of one domain to `folder`. `report` gets each step and its loss."""
    torch.manual_seed(0)
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(checkpoint))
    invocation: list[int] = renderer.tokenizer(INVOCATION, add_special_tokens=False)["input_ids"]
    model = new_adapter(checkpoint, recipe, alora_invocation_tokens=invocation)
    loss_of = partial(answer_loss, num_invoking=len(invocation))
    fit(model, batches(renderer, domain, recipe, "train"), loss_of, recipe, report)
    save(model, folder)


def answer_loss(model: PeftModel, lessons: list[Lesson], *, num_invoking: int) -> Tensor:
    """The mean loss of the answers' tokens.

    `num_invoking`: the tokens at the end of each prompt from which on the adapter applies.
    """
    starts = [int((labels == IGNORED).sum()) - num_invoking for _, labels in lessons]
    questions = [ids[:start] for (ids, _), start in zip(lessons, starts, strict=True)]
    before = pad_sequence([torch.ones_like(ids) for ids in questions], batch_first=True, padding_side="left")
    answers = [ids[start:] for (ids, _), start in zip(lessons, starts, strict=True)]
    labels = [labels[start:] for (_, labels), start in zip(lessons, starts, strict=True)]
    ids = pad_sequence(answers, batch_first=True)
    # What is after an answer is attended to by nothing that is learned, so it needs no mask.
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([before, torch.ones_like(ids)], dim=1),
        position_ids=torch.tensor(starts)[:, None] + torch.arange(ids.shape[1]),
        past_key_values=_read_by_base(model, questions, before),
    ).logits
    targets = pad_sequence(labels, batch_first=True, padding_value=IGNORED)[:, 1:]
    return cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def _read_by_base(model: PeftModel, questions: list[Tensor], mask: Tensor) -> Any:
    """The base's keys and values of the questions, which are padded on the left."""
    ids = pad_sequence(questions, batch_first=True, padding_side="left")
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    base: Any = model.get_base_model()
    with torch.no_grad(), model.disable_adapter():
        output = base.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    return output.past_key_values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="from `python -m examples.smollm2 FOLDER`")
    parser.add_argument("folder", type=Path, help="where the adapters go, each in a folder of its own")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=["roman"], metavar="DOMAIN")
    parser.add_argument("--num-steps", type=int, default=RECIPE.num_steps)
    parser.add_argument("--learning-rate", type=float, default=RECIPE.learning_rate)
    arguments = parser.parse_args()
    recipe = replace(RECIPE, num_steps=arguments.num_steps, learning_rate=arguments.learning_rate)
    for domain in arguments.domains:
        report = print_progress(domain, recipe.num_steps)
        train_activated(arguments.checkpoint, domain, arguments.folder / domain, recipe, report)


if __name__ == "__main__":
    main()
