"""One stream against many on the same running cluster: does continuous batching reach the client?

A meta with random weights (4 layers × 256 by default) on one replica streams greedy answers of a fixed length
over HTTP to one client process. Rounds of one stream and of many take turns. The ratio is that of the
medians. It shows the gain of batching through the whole path, not the speed of a real model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.models import save_random_model
from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to, num_logical_cpus


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        folder = Path(scratch)
        save_random_model(folder / "meta", hidden_size=arguments.hidden_size, num_layers=arguments.num_layers)
        config = load_config(_write_config(folder, arguments.num_streams))
        head = start_head(folder / "state", num_cpus=num_logical_cpus(config))
        try:
            with connect_to(head) as client:
                url = apply(config, client)
            alone, many = asyncio.run(_measure(url, arguments))
        finally:
            stop_head(folder / "state")
    _report(alone, many, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-streams", type=int, default=32)
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=4)
    return parser.parse_args()


def _write_config(folder: Path, num_streams: int) -> Path:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = {"dtype": "float32", "max_streams": num_streams, "num_threads": 1, "max_model_len": 256}
    text = {
        "name": "bench",
        "meta": {"model": {"path": "meta"}, "engine": engine},
        "http": {"port": port},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path


async def _measure(url: str, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Returns the tokens per second of each round, with one stream and with all streams."""
    limits = httpx.Limits(max_connections=arguments.num_streams)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as client:

        async def together(num_streams: int) -> float:
            began_s = time.perf_counter()
            counts = await asyncio.gather(
                *(_stream(client, i, arguments.num_tokens) for i in range(num_streams))
            )
            return sum(counts) / (time.perf_counter() - began_s)

        await together(arguments.num_streams)  # warm up
        rounds = [
            (await together(1), await together(arguments.num_streams)) for _ in range(arguments.num_rounds)
        ]
    return [alone for alone, _ in rounds], [many for _, many in rounds]


async def _stream(client: httpx.AsyncClient, number: int, num_tokens: int) -> int:
    body = {
        "messages": [{"role": "user", "content": f"stream number {number}"}],
        "temperature": 0,
        "max_tokens": num_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage = None
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage") or usage
    if usage is None or usage["completion_tokens"] != num_tokens:
        sys.exit(f"a stream ended early: {usage}")
    return num_tokens


def _report(alone: list[float], many: list[float], arguments: argparse.Namespace) -> None:
    ratio = statistics.median(many) / statistics.median(alone)
    table = Table("streams", "tokens/s, median", "min", "max", title="Streamed over HTTP, one replica")
    for num_streams, rates in ((1, alone), (arguments.num_streams, many)):
        table.add_row(
            str(num_streams), f"{statistics.median(rates):.0f}", f"{min(rates):.0f}", f"{max(rates):.0f}"
        )
    Console().print(table)
    Console().print(f"{arguments.num_streams} streams together: {ratio:.1f} × one stream")
    result = {
        "one_stream_tokens_per_s": round(statistics.median(alone), 1),
        "many_streams_tokens_per_s": round(statistics.median(many), 1),
        "num_streams": arguments.num_streams,
        "ratio": round(ratio, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
