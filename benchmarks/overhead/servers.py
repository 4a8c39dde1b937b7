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
from benchmarks.overhead.serve_llm import serve_llm
from benchmarks.overhead.vllm_server import vllm_server

BARE, SERVER, SERVE_LLM, DIRECT, ROUTED = (
    "bare engine",
    "vLLM's server",
    "ray.serve.llm",
    "ours",
    "ours, routed",
)
TRACED = {"routing": {"trace": True}}


@contextmanager
def all_servers(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, SendQuestion]]:
    model = Model(folder / "model", max_streams=max(arguments.num_streams))
    save_random_model(model.folder, hidden_size=arguments.hidden_size, num_layers=arguments.num_layers)
    for name in ("server", "serve_llm", "ours"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        vllm_url = stack.enter_context(vllm_server(model, folder / "server"))
        serve_llm_url = stack.enter_context(serve_llm(model, folder / "serve_llm"))
        our_url = stack.enter_context(ours(model, folder / "ours"))
        engine = stack.enter_context(engine_only(model))
        yield {
            BARE: engine,
            SERVER: over_http(vllm_url, NAME),
            SERVE_LLM: over_http(serve_llm_url, NAME),
            DIRECT: over_http(our_url, f"{OURS}/{EXPERT}", **TRACED),
            ROUTED: over_http(our_url, OURS, **TRACED),
        }
