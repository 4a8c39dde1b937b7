"""Compares experts in the meta: `python -m examples.smollm2.in_place CHECKPOINT ACTIVATED [--domains …]`.

The engine answers held-out questions with the meta alone, with the demo's adapter, which reads the question
itself, with the same adapter on what the meta has computed of the question, and so with an activated one from
the folder ACTIVATED, which `python -m examples.smollm2.activated` has written.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from examples.smollm2.check import MAX_NEW_TOKENS, accuracy
from examples.smollm2.domains import DOMAINS
from examples.smollm2.query_set import held_out_queries
from examples.smollm2.question import Question
from examples.smollm2.train import ADAPTERS
from experts.adapter import Invocation
from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest


@dataclass(frozen=True)
class Reader:
    """How questions are answered. `adapter`: its folder; None: the meta alone. `invocation`: how the adapter
    uses what the meta has computed; None: not at all."""

    name: str
    adapter: Path | None = None
    invocation: Invocation | None = None


def readers(domain: str, activated: Path, ordinary: Path = ADAPTERS) -> list[Reader]:
    return [
        Reader("meta"),
        Reader("adapter", ordinary / domain),
        Reader("adapter on the meta's cache", ordinary / domain, "approximate"),
        Reader("activated adapter on the meta's cache", activated / domain, "exact"),
    ]


async def answers(engine: TransformersEngine, reader: Reader, questions: Sequence[Question]) -> list[str]:
    """Greedy answers of at most MAX_NEW_TOKENS tokens."""
    if reader.adapter is not None:
        await engine.load_adapter(reader.name, str(reader.adapter), reader.invocation)

    async def answer(number: int, question: Question) -> str:
        request = EngineRequest(
            str(number),
            messages=question.messages,
            temperature=0.0,
            max_tokens=MAX_NEW_TOKENS,
            adapter=reader.name if reader.adapter is not None else None,
        )
        async with aclosing(engine.generate(request)) as chunks:
            return "".join([chunk.text async for chunk in chunks])

    return list(await asyncio.gather(*(answer(*each) for each in enumerate(questions))))


async def compare(checkpoint: Path, activated: Path, domains: Sequence[str], num_each: int) -> None:
    """Print the share of right answers of each reader in each domain."""
    config = TransformersConfig(dtype="float32", max_model_len=1024, cache_tokens=8192, max_adapters=3)
    engine = TransformersEngine(str(checkpoint), config)
    questions = held_out_queries(num_each, 0, seed=0)
    try:
        for domain in domains:
            own = [question for question in questions if question.domain == domain]
            for reader in readers(domain, activated):
                share = accuracy(await answers(engine, reader, own), own)
                print(f"{domain}: {reader.name}: {share:.3f}", flush=True)
    finally:
        await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="from `python -m examples.smollm2 FOLDER`")
    parser.add_argument("activated", type=Path, help="from `python -m examples.smollm2.activated`")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=["roman"], metavar="DOMAIN")
    parser.add_argument("--num-each", type=int, default=100)
    arguments = parser.parse_args()
    asyncio.run(compare(arguments.checkpoint, arguments.activated, arguments.domains, arguments.num_each))


if __name__ == "__main__":
    main()
