"""What LoRA adapters cost: streams that use eight of them in turn, in one batch, beside the base model alone.

A model with random weights (8 layers × 512 by default) gives greedy answers of a fixed length, in both
engines, without network or replica. `base`: an engine without adapters. `beside`: requests for the base in an
engine that has loaded them. `adapters`: each request uses the next one. Needs an environment with vLLM. The
result is valid for this machine, not for other kinds of devices.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

from benchmarks.engines.streams import Rates
from benchmarks.models import save_random_model
from experts.engine.base import AdapterEngine
from experts.engine.config import EngineConfig, ModelSource, TransformersConfig, VllmConfig
from experts.engine.factory import make_engine

Cases = dict[tuple[str, str], Rates]  # by engine and kind of request


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        base = Path(scratch) / "base"
        save_random_model(base, hidden_size=arguments.hidden_size, num_layers=arguments.num_layers)
        adapters = {f"adapter-{i}": Path(scratch) / f"adapter-{i}" for i in range(arguments.num_adapters)}
        save_adapters(base, list(adapters.values()), arguments.rank)
        _report(asyncio.run(_measure(base, adapters, arguments)), arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--num-streams", type=int, default=16)
    parser.add_argument("--num-adapters", type=int, default=8)
    parser.add_argument(
        "--rank", type=int, default=16, help="of the adapters, which adapt every linear module"
    )
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=8)
    return parser.parse_args()


def save_adapters(base: Path, folders: list[Path], rank: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    targets = sorted({name.rsplit(".", 1)[1] for name in modules})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none"}
    for folder in folders:
        tensors = {}
        for name, module in modules.items():
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = 0.01 * torch.randn(rank, module.in_features)
            tensors[f"{prefix}.lora_B.weight"] = 0.01 * torch.randn(module.out_features, rank)
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))


async def _measure(base: Path, adapters: dict[str, Path], arguments: argparse.Namespace) -> Cases:
    cases: Cases = {}
    for kind in arguments.engines:
        async with AsyncExitStack() as stack:
            plain = await _started(stack, base, _config(kind, arguments))
            adapted = await _started(stack, base, _config(kind, arguments, max_adapters=len(adapters)))
            for name, folder in adapters.items():
                await adapted.load_adapter(name, str(folder))
            names = list(adapters)
            turns = [{"adapter": names[i % len(names)]} for i in range(arguments.num_streams)]
            none: list[dict[str, Any]] = [{} for _ in turns]
            runs = {"base": (plain, none), "beside": (adapted, none), "adapters": (adapted, turns)}
            for engine, options in runs.values():
                await Rates().measure(engine, 8, options)  # warm
            for _ in range(arguments.num_rounds):
                for case, (engine, options) in runs.items():
                    rates = cases.setdefault((kind, case), Rates())
                    await rates.measure(engine, arguments.num_tokens, options)
    return cases


async def _started(stack: AsyncExitStack, base: Path, config: EngineConfig) -> AdapterEngine:
    engine = make_engine(ModelSource(path=str(base)), config)
    assert isinstance(engine, AdapterEngine)
    stack.push_async_callback(engine.close)
    return engine


def _config(kind: str, arguments: argparse.Namespace, max_adapters: int = 0) -> EngineConfig:
    settings: dict[str, Any] = {"dtype": "float32", "max_streams": arguments.num_streams}
    if max_adapters:
        settings |= {"max_adapters": max_adapters, "max_adapter_rank": arguments.rank}
    if kind == "vllm":
        return VllmConfig(**settings, cache_bytes=2**28)
    return TransformersConfig(**settings, num_threads=1)


def _report(cases: Cases, arguments: argparse.Namespace) -> None:
    table = Table("engine", "requests", "tokens/s, median", "min", "max", "of the base")
    results = []
    for (kind, case), measured in cases.items():
        rate, low, high = (each(measured.tokens_per_s) for each in (statistics.median, min, max))
        ratio = rate / statistics.median(cases[kind, "base"].tokens_per_s)
        table.add_row(kind, case, f"{rate:.0f}", f"{low:.0f}", f"{high:.0f}", f"{ratio:.2f}")
        results.append(
            {
                "engine": kind,
                "requests": case,
                "tokens_per_s": round(rate, 1),
                "of_the_base": round(ratio, 3),
                "ttft_ms": round(statistics.median(measured.ttft_ms), 1),
            }
        )
    Console().print(table)
    settings = {name: getattr(arguments, name) for name in ("num_streams", "num_adapters", "rank")}
    print(json.dumps({**settings, "hidden_size": arguments.hidden_size, "results": results}))


if __name__ == "__main__":
    main()
