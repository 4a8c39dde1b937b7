"""The accuracy of each expert alone on held-out questions: `python -m examples.smollm2.check CHECKPOINT`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.smollm2.domains import DOMAINS
from examples.smollm2.query_set import held_out_queries
from examples.smollm2.question import Question, is_right
from examples.smollm2.train import ADAPTERS
from experts.prompt import PromptRenderer

BATCH_SIZE = 16
MAX_NEW_TOKENS = 80


def accuracy(answers: Sequence[str], questions: Sequence[Question]) -> float:
    """The share of the answers that are right, 0 to 1."""
    return sum(map(is_right, questions, answers)) / len(questions)


@torch.inference_mode()
def answers(model: Any, renderer: PromptRenderer, questions: Sequence[Question]) -> list[str]:
    """Greedy answers, by `generate` of transformers."""
    texts: list[str] = []
    for start in range(0, len(questions), BATCH_SIZE):
        prompts = [renderer.chat(question.messages) for question in questions[start : start + BATCH_SIZE]]
        length = max(map(len, prompts))
        pad = int(renderer.tokenizer.eos_token_id or 0)
        ids = torch.tensor([[pad] * (length - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False
        )
        texts += renderer.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--num-each", type=int, default=50)
    parser.add_argument("--show", type=int, default=0, help="wrong answers to show for each domain")
    arguments = parser.parse_args()
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(arguments.checkpoint))
    questions = held_out_queries(arguments.num_each, 0, seed=0)
    for domain in DOMAINS:
        if not (arguments.adapters / domain).exists():
            continue
        base = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
        own = [question for question in questions if question.domain == domain]
        alone = answers(base, renderer, own)
        model = PeftModel.from_pretrained(base, str(arguments.adapters / domain)).merge_and_unload()
        given = answers(model, renderer, own)
        print(f"{domain}: expert {accuracy(given, own):.3f}, meta {accuracy(alone, own):.3f}", flush=True)
        wrong = [(q, text) for q, text in zip(own, given, strict=True) if not is_right(q, text)]
        for question, text in wrong[: arguments.show]:
            print(f"    {question.text!r}\n      -> {text!r}, right: {question.answer!r}")


if __name__ == "__main__":
    main()
