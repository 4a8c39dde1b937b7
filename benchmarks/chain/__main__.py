"""Chains on the demo: questions of three steps, answered by a chain, by one hand-over, and by each model.

The demo's meta, tokens and adapters run in one engine, and the real router decides, without HTTP and Ray.
Ordinary questions of one step show whether an answer stands when nothing is left to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chain.questions import PROMPT, ChainQuestion, chain_questions, ordinary_questions
from cluster.config.cluster_config import load_config
from deployments.replicas.wire import to_engine_request, to_model_chunk
from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.learn import TOKENS
from examples.smollm2.run import CHECKPOINT, CONFIG
from examples.smollm2.train import ADAPTERS
from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.token import ExpertToken
from router.chain_rules import ChainRules
from router.decoding.decode import Decoder
from router.decoding.generation import Done, GenerationRequest
from router.decoding.policy import Target
from router.model_port import Model, ModelChunk, ModelRequest
from router.prompt import Message, Prompt
from router.sampling import Sampling
from router.table import META, Deadlines, ModelEntry, RouteTable
from tests.fakes.availability import FakeRoutes

MAX_HOPS, MAX_TOKENS = 3, 24  # of a chain; of all its answers together
NUM_STREAMS = 16
# Accuracy is measured, not time: a busy machine may take as long as it needs.
DEADLINES = Deadlines(queue_s=600, first_token_s=600, gap_s=600, total_s=900)
CHAIN, FINISH = "chain", "one hand-over"


@dataclass(frozen=True)
class Answered:
    """`hops`: the experts that wrote, in order."""

    text: str
    hops: tuple[str, ...]
    num_tokens: int


class EngineModel:
    """All models of the cluster: the engine, with the adapter that a call names."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def __getitem__(self, name: str) -> Model:
        return self

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        async with aclosing(self._engine.generate(to_engine_request(request))) as chunks:
            async for chunk in chunks:
                yield to_model_chunk(chunk)


class Cluster:
    def __init__(self, engine: TransformersEngine, names: Sequence[str], after_expert: str) -> None:
        experts = {name: ModelEntry(app=META, adapter=name) for name in names}
        rules: dict[str, Any] = {
            "after_expert": after_expert,
            "call_bias": load_config(CONFIG).routing.call_bias,
        }
        chain = ChainRules(prompt=PROMPT, max_hops=MAX_HOPS, max_tokens=MAX_TOKENS)
        self._table = RouteTable(
            table_version=1,
            name="demo",
            meta=ModelEntry(app=META),
            experts=experts,
            chain=chain,
            deadlines=DEADLINES,
            **rules,
        )
        self._models, self._routes = EngineModel(engine), FakeRoutes(ready=(META, *names))

    async def answers(self, questions: Sequence[ChainQuestion], target: Target) -> list[Answered]:
        slots = asyncio.Semaphore(NUM_STREAMS)

        async def answer(question: ChainQuestion) -> Answered:
            async with slots:
                return await self._answer(question, target)

        return list(await asyncio.gather(*map(answer, questions)))

    async def _answer(self, question: ChainQuestion, target: Target) -> Answered:
        prompt = Prompt(messages=(Message("user", question.text),))
        generation = GenerationRequest("q", prompt, target, Sampling(temperature=0.0), max_tokens=MAX_TOKENS)
        decoder = Decoder(self._table, self._models, self._routes)
        texts: list[str] = []
        async with aclosing(decoder.decode(generation)) as items:
            async for item in items:
                if isinstance(item, Done):
                    spans = [*(span for draft in item.drafts for span in draft), *item.spans]
                    hops = tuple(span.model for span in spans if span.model != META)
                    return Answered("".join(texts), hops, item.num_completion_tokens)
                texts.append(getattr(item, "text", ""))
        raise AssertionError("an answer ends with Done")


async def run(num: int, num_ordinary: int, seed: int) -> dict[str, Any]:
    """Shares of right answers by who answers, and what the chains were like."""
    engine = await _engine()
    names = sorted(path.name for path in ADAPTERS.iterdir())
    chained, finishing = Cluster(engine, names, "chain"), Cluster(engine, names, "finish")
    routed = Target(META, routed=True)
    questions, ordinary = chain_questions(num, seed), ordinary_questions(num_ordinary, seed)
    try:
        chains = await chained.answers(questions, routed)
        right = {CHAIN: _share(questions, chains)}
        right[FINISH] = _share(questions, await finishing.answers(questions, routed))
        for name in (META, *names):
            print(name, flush=True)
            right[name] = _share(questions, await finishing.answers(questions, Target(name, routed=False)))
        stands = await chained.answers(ordinary, routed)
        right_ordinary = _share(ordinary, stands)
        right_ordinary_finish = _share(ordinary, await finishing.answers(ordinary, routed))
    finally:
        await engine.close()
    for question, answered in list(zip(questions, chains, strict=True))[:6]:
        print(repr(question.text), question.results, answered, sep="\n  ")
    return {
        "num_questions": num,
        "right": right,
        "hops": _hops(chains),
        "most_tokens": max(each.num_tokens for each in chains),
        "num_loops": sum(len(set(each.hops)) < len(each.hops) for each in [*chains, *stands]),
        "num_ordinary": len(ordinary),
        "ordinary_right": {CHAIN: right_ordinary, FINISH: right_ordinary_finish},
        "ordinary_hops": _hops(stands),
    }


async def _engine() -> TransformersEngine:
    num_adapters = len(list(ADAPTERS.iterdir()))
    config = TransformersConfig(
        dtype="float32",
        max_model_len=1024,
        cache_tokens=8192,
        max_streams=NUM_STREAMS,
        max_adapters=num_adapters,
    )
    engine = TransformersEngine(str(CHECKPOINT), config)
    for folder in sorted(ADAPTERS.iterdir()):
        await engine.load_adapter(folder.name, str(folder))
    await engine.install(1, [ExpertToken.load(path) for path in sorted(TOKENS.glob("*.safetensors"))])
    return engine


def _share(questions: Sequence[ChainQuestion], answers: Sequence[Answered]) -> float:
    right = [question.is_right(each.text) for question, each in zip(questions, answers, strict=True)]
    return sum(right) / max(1, len(right))


def _hops(answers: Sequence[Answered]) -> dict[str, int]:
    ways = [" → ".join(each.hops) or "none" for each in answers]
    return {way: ways.count(way) for way in sorted(set(ways), key=lambda way: (-ways.count(way), way))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-questions", type=int, default=60)
    parser.add_argument("--num-ordinary", type=int, default=10, help="of each expert")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_checkpoint(CHECKPOINT, report=print)
    found = asyncio.run(run(arguments.num_questions, arguments.num_ordinary, arguments.seed))
    table = Table("who answers", "right")
    for name, share in found["right"].items():
        table.add_row(name, f"{share:.3f}")
    Console().print(table)
    print(json.dumps({"benchmark": "chain", **found}, ensure_ascii=False))


if __name__ == "__main__":
    main()
