"""The query sets: questions of all domains and general chat, to learn from and to judge by.

`python -m examples.smollm2.query_set FILE` writes the queries that the expert tokens are learned from.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from examples.smollm2 import general
from examples.smollm2.domains import DOMAINS
from examples.smollm2.question import Part, Question

# Draws for each question that is wanted, before a domain counts as used up.
_MAX_DRAWS = 50


def train_queries(num_each: int, num_general: int, seed: int) -> list[Question]:
    """`num_each` questions per domain and `num_general` of general chat, in random order.

    No question occurs twice. Raises ValueError if there are not so many.
    """
    return _queries(num_each, num_general, seed, "train")


def held_out_queries(num_each: int, num_general: int, seed: int) -> list[Question]:
    """The same with phrasings and inputs that no training question has."""
    return _queries(num_each, num_general, seed, "held_out")


def write_jsonl(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as chat JSONL, the format that `etr learn` and `etr eval` read."""
    rows = (json.dumps(_row(question), ensure_ascii=False) + "\n" for question in questions)
    path.write_text("".join(rows), encoding="utf-8")


def _queries(num_each: int, num_general: int, seed: int, part: Part) -> list[Question]:
    # A generator for each domain, so that more questions of one leave the others as they are.
    drawn = [
        question
        for domain in DOMAINS
        for question in _different(domain, num_each, _random(seed, part, domain), part)
    ]
    drawn += general.sample(num_general, _random(seed, part, "general"), part)
    _random(seed, part, "order").shuffle(drawn)
    return drawn


def _random(seed: int, part: Part, purpose: str) -> random.Random:
    return random.Random(f"{seed} {part} {purpose}")


def _different(domain: str, num: int, rng: random.Random, part: Part) -> list[Question]:
    drawn: dict[tuple[str, ...], Question] = {}
    for _ in range(_MAX_DRAWS * num):
        if len(drawn) == num:
            break
        question = DOMAINS[domain].sample(rng, part)
        drawn.setdefault(tuple(message["content"] for message in question.messages), question)
    if len(drawn) < num:
        raise ValueError(
            f"num_each={num}: {domain} gave only {len(drawn)} different questions; ask for fewer"
        )
    return list(drawn.values())


def _row(question: Question) -> dict[str, Any]:
    messages: list[dict[str, str]] = list(question.messages)
    if question.domain is None:
        return {"messages": messages, "expert": None}
    messages.append({"role": "assistant", "content": question.answer})
    return {"messages": messages, "expert": question.domain, "answer": question.answer}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--num-each", type=int, default=100, help="queries of each domain")
    parser.add_argument("--num-general", type=int, default=500, help="queries that no expert should take")
    parser.add_argument("--held-out", action="store_true", help="queries to judge by, for `etr eval`")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    queries = held_out_queries if arguments.held_out else train_queries
    write_jsonl(arguments.file, queries(arguments.num_each, arguments.num_general, arguments.seed))


if __name__ == "__main__":
    main()
