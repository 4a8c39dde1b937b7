"""The bare engine and all servers that are compared, started together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.models import save_random_model
from benchmarks.overhead.client import SendQuestion, over_http
from benchmarks.overhead.engine_only import engine_only
from benchmarks.overhead.model import NAME, Model
from benchmarks.overhead.ours import EXPERT, ours
from benchmarks.overhead.ours import NAME as OURS
from benchmarks.overhead.serve_llm import SERVE_DEFAULTS, SERVE_FAST, serve_llm
from benchmarks.overhead.vllm_server import IN_PROCESS, vllm_server

BARE, DIRECT, ROUTED = "bare engine", "ours", "ours, routed"
VLLM_SERVERS = ("vLLM's server", "vLLM's server, our executor")
SERVE_LLMS = ("ray.serve.llm", "ray.serve.llm, HAProxy")
TRACED = {"routing": {"trace": True}}


@contextmanager
def all_servers(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, SendQuestion]]:
    model = Model(folder / "model", max_streams=max(arguments.num_streams))
    save_random_model(model.folder, hidden_size=arguments.hidden_size, num_layers=arguments.num_layers)
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(vllm_server(model, _made(folder / name), further))
            for name, further in zip(VLLM_SERVERS, ((), IN_PROCESS), strict=True)
        }
        urls |= {
            name: stack.enter_context(serve_llm(model, _made(folder / name), settings))
            for name, settings in zip(SERVE_LLMS, (SERVE_DEFAULTS, SERVE_FAST), strict=True)
        }
        our_url = stack.enter_context(ours(model, _made(folder / "ours")))
        engine = stack.enter_context(engine_only(model))
        yield {
            BARE: engine,
            **{name: over_http(url, NAME) for name, url in urls.items()},
            DIRECT: over_http(our_url, f"{OURS}/{EXPERT}", **TRACED),
            ROUTED: over_http(our_url, OURS, **TRACED),
        }


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
