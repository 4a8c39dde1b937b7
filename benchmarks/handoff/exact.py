"""Exactness of hand-overs in place: greedy answers compared with PEFT's own `generate`, token by token.

Experts take over at the start of an answer, where PEFT finds the invocation tokens itself, and in mid-answer,
where both begin at the last token. Sixteen requests run at a time, on a KV cache that is too small for them,
so some are preempted and read again. Of every second expert the stream is closed after a few tokens, as if
its replica was lost, and a new call goes on with what was written. The model and its activated LoRAs have
random weights. The engines are those of the environment. Where an answer differs, PEFT's logits say by how
much its own token was ahead: below NEAR_TIE either token is right, because float32 sums in another order
differ by as much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.handoff.exact_cases import WINDOW, Case, Reference, World, random_world
from benchmarks.handoff.preemptions import count_preemptions
from experts.engine.base import AdapterEngine
from experts.engine.config import EngineConfig, ModelSource, TransformersConfig, VllmConfig
from experts.engine.factory import make_engine
from experts.engine.request import EngineRequest, Resumed
from experts.token import ExpertToken

NUM_STREAMS = 16
CACHE_TOKENS = 512
NUM_BEFORE_LOSS = 5  # tokens of an expert before its replica is lost
NEAR_TIE = 1e-3
EQUAL, NEAR, DIFFERENT = VERDICTS = ("equal", "near tie", "different")
AS_BASE = "as the base"  # the adapter changes nothing, so this answer proves little

Answers = list[tuple[list[int], list[Tensor]]]
Counts = dict[tuple[str, str, str], Counter[str]]  # by world, engine and kind of case


def main() -> None:
    arguments = _arguments()
    counts: Counts = defaultdict(Counter)
    preemptions: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        folder = Path(scratch)
        world = random_world(folder, arguments.num_prompts)
        asyncio.run(_compare("random", world, Reference(world), arguments, counts, preemptions))
    _report(counts, preemptions)
    if any(count[DIFFERENT] for count in counts.values()):
        sys.exit("some answers differ from PEFT's")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    engines = ["transformers", *(["vllm"] if find_spec("vllm") else [])]
    parser.add_argument("--engines", nargs="+", default=engines)
    parser.add_argument("--num-prompts", type=int, default=200)
    parser.add_argument("--num-tokens", type=int, default=32, help="of each expert")
    return parser.parse_args()


async def _compare(
    name: str,
    world: World,
    reference: Reference,
    arguments: argparse.Namespace,
    counts: Counts,
    preemptions: dict[str, int],
) -> None:
    cases = list(reference.cases())
    expected = [reference.answer(case, arguments.num_tokens) for case in cases]
    for kind in arguments.engines:
        engine = make_engine(ModelSource(path=str(world.base)), _config(kind, world))
        assert isinstance(engine, AdapterEngine)
        try:
            with count_preemptions(kind) as num_preempted:
                answers = await _answers(engine, world, cases, arguments.num_tokens)
        finally:
            await engine.close()
        preemptions[f"{name}, {kind}"] = num_preempted()
        for case, found, (ids, logits) in zip(cases, answers, expected, strict=True):
            count = counts[name, kind, case.kind]
            count[verdict(found, ids, logits)] += 1
            count[AS_BASE] += reference.is_as_base(case, ids)


def _config(kind: str, world: World) -> EngineConfig:
    """With a KV cache for a fraction of the requests that run."""
    settings: dict[str, Any] = {"dtype": "float32", "max_streams": NUM_STREAMS, "max_model_len": WINDOW}
    settings |= {"max_adapters": len(world.adapters), "max_adapter_rank": 8, "max_batch_tokens": 128}
    if kind == "vllm":
        config = json.loads((world.base / "config.json").read_bytes())
        bytes_a_token = (
            2 * 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
        )
        extra = {"block_size": 32}
        return VllmConfig(
            **settings, cache_bytes=CACHE_TOKENS * bytes_a_token, enforce_eager=True, extra=extra
        )
    return TransformersConfig(**settings, cache_tokens=CACHE_TOKENS, num_threads=1)


async def _answers(
    engine: AdapterEngine, world: World, cases: Sequence[Case], num_tokens: int
) -> list[list[int]]:
    for name, folder in world.adapters.items():
        await engine.load_adapter(name, str(folder), "exact")
    fingerprint = _fingerprint(engine)
    tokens = [ExpertToken(case.expert, case.vector, 0.0, "meta", fingerprint) for case in cases]
    await engine.install(1, tokens)
    slots = asyncio.Semaphore(NUM_STREAMS)

    async def answer(case: Case) -> list[int]:
        async with slots:
            return await _answer(engine, case, num_tokens)

    return list(await asyncio.gather(*map(answer, cases)))


def _fingerprint(engine: Any) -> str:
    fingerprint: str = engine._fingerprint
    return fingerprint


async def _answer(engine: AdapterEngine, case: Case, num_tokens: int) -> list[int]:
    """The ids of the expert. Raises RuntimeError if it took over elsewhere, or not at all."""
    stream = _Stream(case)
    request = EngineRequest(
        str(case.number),
        messages=case.messages,
        temperature=0.0,
        max_tokens=len(case.words) + num_tokens,
        allowed=(case.expert,),
        in_place={case.expert: case.adapter},
    )
    await stream.read(engine, request, NUM_BEFORE_LOSS if case.is_resumed else None)
    if stream.words != [*case.words] or not stream.has_switched:
        raise RuntimeError(f"prompt {case.number}: the meta wrote {stream.words}, not {case.words}")
    if case.is_resumed and not stream.has_ended:
        await stream.read(engine, stream.rest(num_tokens), None)
    return stream.ids


class _Stream:
    """What has arrived of one answer: the meta's words, and the expert's text."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.words: list[int] = []
        self.ids: list[int] = []
        self.has_switched = self.has_ended = False
        self._written = self._text = self._tokenizer = ""

    async def read(self, engine: AdapterEngine, request: EngineRequest, num_tokens: int | None) -> None:
        """Until the end, or until the expert has written so many tokens."""
        async with aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                self._tokenizer = chunk.tokenizer or self._tokenizer
                self.has_ended = chunk.finish is not None
                if self.has_switched:
                    self.ids += chunk.token_ids
                    self._text += chunk.text
                else:
                    self.words += chunk.token_ids
                    self._written += chunk.text
                self.has_switched = self.has_switched or chunk.expert is not None
                if num_tokens is not None and len(self.ids) >= num_tokens:
                    return

    def rest(self, num_tokens: int) -> EngineRequest:
        """The call with which a router goes on as the expert."""
        return EngineRequest(
            f"{self._case.number}-resumed",
            messages=self._case.messages,
            written=self._written,
            resumed=Resumed(self._text, tuple(self.ids), self._tokenizer),
            position=len(self.words) + len(self.ids),
            temperature=0.0,
            max_tokens=num_tokens - len(self.ids),
            adapter=self._case.adapter,
        )


def verdict(found: Sequence[int], expected: Sequence[int], logits: Sequence[Tensor]) -> str:
    """How ids compare with those of PEFT. `logits` [V]: from which PEFT chose each, and its end."""
    if list(found) == list(expected):
        return EQUAL
    pairs = zip(found, expected, strict=False)
    at = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if at is None:  # one of them ends here
        return DIFFERENT
    lead = float(logits[at].max() - logits[at][found[at]])
    return NEAR if lead <= NEAR_TIE else DIFFERENT


def _report(counts: Counts, preemptions: dict[str, int]) -> None:
    table = Table("adapters", "engine", "hand-over", "prompts", *VERDICTS, AS_BASE)
    for (name, kind, case), count in sorted(counts.items()):
        numbers = (sum(count[each] for each in VERDICTS), *(count[each] for each in (*VERDICTS, AS_BASE)))
        table.add_row(name, kind, case, *map(str, numbers))
    Console().print(table)
    lines = [
        {"adapters": name, "engine": kind, "hand_over": case, **count}
        for (name, kind, case), count in sorted(counts.items())
    ]
    print(json.dumps({"benchmark": "handoff.exact", "num_preemptions": preemptions, "cases": lines}))


if __name__ == "__main__":
    main()
