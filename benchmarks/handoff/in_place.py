"""The cost of a hand-over in place: from the deciding step to the expert's first token.

A model with random weights runs in the default engine, without network or replica; other streams with prompts
of the same length decode beside the one that is measured. In place: at the start of the answer, where the
expert reads the generation prompt anew, and after words of the meta, where it reads the last token. `a call`:
the same adapter is called, as an expert elsewhere is, without the hop. The cases take turns. Each is compared
with the ordinary steps of the same stream that follow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.engines.adapters import save_adapters
from benchmarks.models import save_random_model
from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest
from experts.token import ExpertToken

EXPERT = "law"
AT_START, AFTER_WORDS, CALL = "in place, at the start", "in place, after words", "a call"
CASES = (AT_START, AFTER_WORDS, CALL)
NUM_WORDS = 4  # of the meta, before a hand-over after words
NUM_STEPS = 16  # of the expert, whose times are those of ordinary steps
ROOM_TOKENS = 1024  # of the window, for answers
INVOCATION = "<|im_start|>assistant\n"


@dataclass
class Measured:
    """Of one case, prompt and number of streams; one entry a round. `step_ms`: of the steps that follow."""

    handover_ms: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.handover_ms) / statistics.median(self.step_ms)


def main() -> None:
    arguments = _arguments()
    results: dict[tuple[int, int, str], Measured] = defaultdict(Measured)
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        for length in arguments.prompts:
            asyncio.run(_measure(Path(scratch) / str(length), length, arguments, results))
    _report(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 512, 2048], help="tokens")
    parser.add_argument("--num-streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--num-rounds", type=int, default=10)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=4)
    return parser.parse_args()


async def _measure(
    folder: Path, length: int, arguments: argparse.Namespace, results: dict[tuple[int, int, str], Measured]
) -> None:
    base, adapter, window = folder / "base", folder / "adapter", length + ROOM_TOKENS
    size = {"hidden_size": arguments.hidden_size, "num_layers": arguments.num_layers}
    save_random_model(base, **size, max_model_len=window)
    save_adapters(base, [adapter], rank=8)
    streams = max(arguments.num_streams)
    config = TransformersConfig(dtype="float32", num_threads=1, max_streams=streams, max_adapters=1)
    engine = TransformersEngine(str(base), config)
    _activate(adapter, engine)
    try:
        await engine.load_adapter(EXPERT, str(adapter), "exact")
        for num_streams in arguments.num_streams:
            await _rounds(engine, length, num_streams, arguments.num_rounds, results)
    finally:
        await engine.close()


def _activate(adapter: Path, engine: TransformersEngine) -> None:
    """Make it an activated LoRA."""
    invocation = engine._tokenizer.hf_tokenizer(INVOCATION, add_special_tokens=False)["input_ids"]
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_bytes()) | {"alora_invocation_tokens": invocation}
    path.write_text(json.dumps(settings), encoding="utf-8")


async def _rounds(
    engine: TransformersEngine,
    length: int,
    num_streams: int,
    num_rounds: int,
    results: dict[tuple[int, int, str], Measured],
) -> None:
    """The first round warms everything up and does not count."""
    begun = [asyncio.Event() for _ in range(num_streams - 1)]
    others = [asyncio.create_task(_decode(engine, length, event)) for event in begun]
    try:
        for event in begun:
            await event.wait()
        for number in range(num_rounds + 1):
            for case in CASES:
                handover_ms, step_ms = await _hand_over(engine, length, case)
                if number:
                    results[length, num_streams, case].handover_ms.append(handover_ms)
                    results[length, num_streams, case].step_ms.append(step_ms)
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _decode(engine: TransformersEngine, length: int, begun: asyncio.Event) -> None:
    async with aclosing(engine.generate(_request(length))) as chunks:
        async for _ in chunks:
            begun.set()


async def _hand_over(engine: TransformersEngine, length: int, case: str) -> tuple[float, float]:
    """The time from the decision to the expert's first token, and that of its later steps, in ms."""
    await _install(engine, wins=case == AT_START)
    in_place = {} if case == CALL else {EXPERT: EXPERT}
    request = _request(length, allowed=(EXPERT,), in_place=in_place, max_tokens=NUM_WORDS + 64)
    written, num_chunks, decided_s, times_s = "", 0, 0.0, []
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            written, num_chunks = written + chunk.text, num_chunks + 1
            if decided_s:
                times_s.append(time.perf_counter())
            elif chunk.expert is not None:
                decided_s = time.perf_counter()
            elif num_chunks == NUM_WORDS:
                await _install(engine, wins=True)
            if len(times_s) > NUM_STEPS:
                break
    if case == CALL:
        request = _request(length, adapter=EXPERT, written=written, max_tokens=NUM_STEPS + 1)
        async with aclosing(engine.generate(request)) as chunks:
            times_s = [time.perf_counter() async for _ in chunks]
    steps_s = [after - before for before, after in zip(times_s, times_s[1:], strict=False)]
    return 1000 * (times_s[0] - decided_s), 1000 * statistics.median(steps_s)


async def _install(engine: TransformersEngine, *, wins: bool) -> None:
    head = engine._head
    bias = 1e4 if wins else -1e4
    token = ExpertToken(EXPERT, torch.zeros(head.dim), bias, "meta", engine._fingerprint)
    await engine.install(head.table.table_version + 1, [token])


def _request(length: int, **options: Any) -> EngineRequest:
    """A prompt of about so many tokens, of one letter each."""
    messages = ({"role": "user", "content": "q" * (length - 32)},)
    return EngineRequest("r", messages=messages, temperature=0.0, **options)


def _report(results: dict[tuple[int, int, str], Measured]) -> None:
    table = Table("prompt", "streams", "case", "hand-over, ms", "ordinary step, ms", "ratio")
    lines = []
    for (length, num_streams, case), measured in results.items():
        handover_ms = statistics.median(measured.handover_ms)
        step_ms = statistics.median(measured.step_ms)
        table.add_row(
            str(length),
            str(num_streams),
            case,
            f"{handover_ms:.1f}",
            f"{step_ms:.1f}",
            f"{measured.ratio:.2f}",
        )
        lines.append(
            {
                "prompt": length,
                "num_streams": num_streams,
                "case": case,
                "handover_ms": round(handover_ms, 2),
                "step_ms": round(step_ms, 2),
                "ratio": round(measured.ratio, 2),
            }
        )
    Console().print(table)
    print(json.dumps({"benchmark": "handoff.in_place", "cases": lines}))


if __name__ == "__main__":
    main()
