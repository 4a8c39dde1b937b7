"""Which engine for which load: the same model in both engines, in one process, in turn.

A model with random weights (8 layers × 512 by default) gives greedy answers of a fixed length, without
network or replica. It runs as an expert, and as a meta with ten experts that never win. Needs an environment
with vLLM. The result is valid for this machine, not for other kinds of devices.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.engines.streams import Rates
from benchmarks.models import save_random_model
from experts.checkpoint import Checkpoint
from experts.engine.config import EngineConfig, ModelSource, TransformersConfig, VllmConfig
from experts.engine.factory import make_engine
from experts.token import ExpertToken

NUM_EXPERTS = 10


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
    max_streams = max(arguments.num_streams)
    configs: dict[str, EngineConfig] = {
        "transformers": TransformersConfig(dtype="float32", max_streams=max_streams, num_threads=1),
        "vllm": VllmConfig(dtype="float32", max_streams=max_streams, cache_bytes=2**29),
    }
    source = ModelSource(path=str(folder))
    rates: dict[Case, Rates] = {}
    engines = {kind: make_engine(source, config) for kind, config in configs.items()}
    try:
        for engine in engines.values():
            await engine.install(1, _experts_that_never_win(folder))
            await Rates().measure(engine, 8, max_streams * [_options("meta")])  # warm
        for _ in range(arguments.num_rounds):
            for num_streams, role, kind in itertools.product(
                arguments.num_streams, ("expert", "meta"), engines
            ):
                measured = rates.setdefault((kind, role, num_streams), Rates())
                options = num_streams * [_options(role)]
                await measured.measure(engines[kind], arguments.num_tokens, options)
    finally:
        for engine in engines.values():
            await engine.close()
    return rates


def _experts_that_never_win(folder: Path) -> list[ExpertToken]:
    fingerprint, dim = Checkpoint(str(folder)).head()
    vectors = torch.randn(NUM_EXPERTS, dim)
    return [ExpertToken(f"expert-{i}", vector, -1e4, "meta", fingerprint) for i, vector in enumerate(vectors)]


def _options(role: str) -> dict[str, Any]:
    return {"allowed": tuple(f"expert-{i}" for i in range(NUM_EXPERTS))} if role == "meta" else {}


def _report(rates: dict[Case, Rates], arguments: argparse.Namespace) -> None:
    table = Table("role", "streams", "engine", "tokens/s, median", "min", "max", "first token, ms")
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
                "role": role,
                "num_streams": num_streams,
                "tokens_per_s": round(rate, 1),
                "ttft_ms": round(ttft_ms, 1),
            }
        )
    Console().print(table)
    print(json.dumps({"num_layers": arguments.num_layers, "results": results}))


if __name__ == "__main__":
    main()
