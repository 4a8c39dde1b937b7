"""Accuracy of each built model alone on held-out questions: `python -m examples.demo.check FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.demo.dataset import held_out_questions
from examples.demo.domains import DOMAINS
from examples.demo.models import META
from examples.demo.question import GENERAL, Question

BATCH_SIZE = 32
MAX_NEW_TOKENS = 64


def oracle_accuracy(folder: Path) -> dict[str, float]:
    """The accuracy of each expert on the held-out questions of its own domain, with greedy answers."""
    return {domain: accuracy(folder / "models" / domain, _questions(domain)) for domain in DOMAINS}


def single_accuracy(folder: Path, name: str) -> float:
    """The accuracy of one model on the held-out questions of all domains, without small talk."""
    return accuracy(folder / "models" / name, [q for domain in DOMAINS for q in _questions(domain)])


def accuracy(model_folder: Path, questions: Sequence[Question]) -> float:
    """The share of questions that the model answers exactly right, with the greeting."""
    given = answers(model_folder, [question.question for question in questions])
    num_right = sum(text == question.visible for text, question in zip(given, questions, strict=True))
    return num_right / len(questions)


@torch.inference_mode()
def answers(model_folder: Path, prompts: Sequence[str]) -> list[str]:
    """The greedy answers of one model to single user messages, by `generate` of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    texts: list[str] = []
    for start in range(0, len(prompts), BATCH_SIZE):
        inputs = tokenizer(
            [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
                )
                for prompt in prompts[start : start + BATCH_SIZE]
            ],
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
        )
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        new_ids = output[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    return texts


def _questions(domain: str) -> list[Question]:
    return [question for question in held_out_questions() if question.domain == domain]


def main(folder: Path) -> None:
    oracle = oracle_accuracy(folder)
    print("oracle", {domain: round(share, 3) for domain, share in oracle.items()})
    print("oracle mean", round(sum(oracle.values()) / len(oracle), 3))
    print("meta, small talk", round(accuracy(folder / "models" / META, _questions(GENERAL)), 3))
    for name in (META, *DOMAINS):
        print(f"{name} alone, all domains", round(single_accuracy(folder, name), 3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
