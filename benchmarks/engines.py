"""Which engine for which load: the same model in each of them, in one process, in turn.

A model with random weights (8 layers × 512 by default), greedy answers of a fixed length, no network and no
replica between. Once as an expert, and once as a meta with ten experts of which none ever wins. Needs an
environment with vLLM. Shows what an engine does on this machine, not what it does on another kind of device.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.models import save_random_model
from experts.checkpoint import Checkpoint
from experts.engine.base import Call, Engine
from experts.engine.config import EngineConfig, ModelSource, TransformersConfig, VllmConfig
from experts.engine.make import make_engine
from experts.token import ExpertToken

NUM_EXPERTS = 10
NUMBERS = itertools.count()


@dataclass
class Rates:
    """Of each round: tokens per second, and the median time to the first token."""

    tokens_per_s: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)


Case = tuple[str, str, int]  # engine, role, streams


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        folder = Path(scratch) / "meta"
        save_random_model(folder, hidden_size=arguments.hidden_size, num_layers=arguments.num_layers)
        _report(asyncio.run(_measure(folder, arguments)), arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=8)
    return parser.parse_args()


async def _measure(folder: Path, arguments: argparse.Namespace) -> dict[Case, Rates]:
    most = max(arguments.num_streams)
    configs: dict[str, EngineConfig] = {
        "transformers": TransformersConfig(dtype="float32", max_streams=most, num_threads=1),
        "vllm": VllmConfig(dtype="float32", max_streams=most, cache_bytes=2**29),
    }
    source = ModelSource(path=str(folder))
    rates: dict[Case, Rates] = {}
    engines = {kind: make_engine(source, config) for kind, config in configs.items()}
    try:
        for engine in engines.values():
            await engine.install(1, _silent_experts(folder))
            await _together(engine, most, "meta", 8)  # warm
        for _ in range(arguments.num_rounds):
            for num_streams, role, kind in itertools.product(
                arguments.num_streams, ("expert", "meta"), engines
            ):
                rate, ttft_ms = await _together(engines[kind], num_streams, role, arguments.num_tokens)
                measured = rates.setdefault((kind, role, num_streams), Rates())
                measured.tokens_per_s.append(rate)
                measured.ttft_ms.append(ttft_ms)
    finally:
        for engine in engines.values():
            await engine.close()
    return rates


def _silent_experts(folder: Path) -> list[ExpertToken]:
    fingerprint, dim = Checkpoint(str(folder)).head()
    vectors = torch.randn(NUM_EXPERTS, dim)
    return [ExpertToken(f"expert-{i}", vector, -1e4, "meta", fingerprint) for i, vector in enumerate(vectors)]


async def _together(engine: Engine, num_streams: int, role: str, num_tokens: int) -> tuple[float, float]:
    began_s = time.perf_counter()
    firsts_s = await asyncio.gather(*(_stream(engine, role, num_tokens) for _ in range(num_streams)))
    rate = num_streams * num_tokens / (time.perf_counter() - began_s)
    return rate, 1000 * statistics.median(firsts_s)


async def _stream(engine: Engine, role: str, num_tokens: int) -> float:
    """Seconds to the first token. Every question is a new one, so that no cached prefix helps."""
    number = next(NUMBERS)
    call = Call(
        str(number),
        messages=({"role": "user", "content": f"{number} is the number of this stream"},),
        max_tokens=num_tokens,
        temperature=0.0,
        allowed=tuple(f"expert-{i}" for i in range(NUM_EXPERTS)) if role == "meta" else (),
    )
    began_s, first_s, num_written = time.perf_counter(), 0.0, 0
    async for chunk in engine.generate(call):
        first_s = first_s or time.perf_counter() - began_s
        num_written += len(chunk.token_ids)
    assert num_written == num_tokens, f"a stream ended after {num_written} tokens"
    return first_s


def _report(rates: dict[Case, Rates], arguments: argparse.Namespace) -> None:
    table = Table("as", "streams", "engine", "tokens/s, median", "min", "max", "first token, ms")
    results = []
    for (kind, role, num_streams), measured in sorted(rates.items(), key=lambda item: item[0][1:]):
        rate, ttft_ms = statistics.median(measured.tokens_per_s), statistics.median(measured.ttft_ms)
        low, high = min(measured.tokens_per_s), max(measured.tokens_per_s)
        table.add_row(
            role, str(num_streams), kind, f"{rate:.0f}", f"{low:.0f}", f"{high:.0f}", f"{ttft_ms:.0f}"
        )
        results.append(
            {
                "engine": kind,
                "as": role,
                "num_streams": num_streams,
                "tokens_per_s": round(rate, 1),
                "ttft_ms": round(ttft_ms, 1),
            }
        )
    Console().print(table)
    print(json.dumps({"num_layers": arguments.num_layers, "results": results}))


if __name__ == "__main__":
    main()
