"""The accuracy of each expert alone on held-out questions: `python -m examples.smollm2.check CHECKPOINT`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from examples.smollm2.domains import DOMAINS
from examples.smollm2.query_set import held_out_queries
from examples.smollm2.question import Question, is_right
from examples.smollm2.train import ADAPTERS
from experts.checkpoint import Checkpoint
from experts.learn import Query
from experts.learn.own_answers import write_answers
from experts.prompt import PromptRenderer

MAX_NEW_TOKENS = 80


def accuracy(answers: Sequence[str], questions: Sequence[Question]) -> float:
    """The share of the answers that are right, 0 to 1."""
    return sum(map(is_right, questions, answers)) / len(questions)


def answers(model: PreTrainedModel, renderer: PromptRenderer, questions: Sequence[Question]) -> list[str]:
    """Greedy answers of at most MAX_NEW_TOKENS tokens."""
    asked = [Query(question.messages) for question in questions]
    return write_answers(model, renderer, asked, num_new_tokens=MAX_NEW_TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--num-each", type=int, default=50)
    parser.add_argument("--show", type=int, default=0, help="wrong answers to show for each domain")
    arguments = parser.parse_args()
    meta, renderer = Checkpoint(str(arguments.checkpoint), dtype="float32").load()
    questions = held_out_queries(arguments.num_each, 0, seed=0)
    for domain in DOMAINS:
        adapter = arguments.adapters / domain
        if not adapter.exists():
            continue
        own = [question for question in questions if question.domain == domain]
        alone = answers(meta, renderer, own)
        expert, _ = Checkpoint(str(arguments.checkpoint), dtype="float32", adapter=str(adapter)).load()
        given = answers(expert, renderer, own)
        print(f"{domain}: expert {accuracy(given, own):.3f}, meta {accuracy(alone, own):.3f}", flush=True)
        wrong = [(q, text) for q, text in zip(own, given, strict=True) if not is_right(q, text)]
        for question, text in wrong[: arguments.show]:
            print(f"    {question.text!r}\n      -> {text!r}, right: {question.answer!r}")


if __name__ == "__main__":
    main()
