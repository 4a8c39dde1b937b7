"""vLLM's own server, in processes of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.peers.model import ENGINE_ENV, NAME, Model
from cluster.ports import free_ports
from cluster.session import Session, until

START_TIMEOUT_S = 300.0


@contextmanager
def vllm_server(model: Model, folder: Path) -> Iterator[str]:
    """Yields its address."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    where = ["--model", str(model.folder), "--served-model-name", NAME, "--host", "127.0.0.1"]
    command = [*server, *where, "--port", str(port), *_options(model)]
    log_path = folder / "server.log"
    session = Session.start(command, {**os.environ, **ENGINE_ENV}, log_path, mark=str(model.folder))
    try:
        if not until(lambda: _is_up(session, url), START_TIMEOUT_S, 0.5):
            raise TimeoutError(f"vLLM's server is not up: {log_path.read_text(encoding='utf-8')[-2000:]}")
        yield url
    finally:
        session.end()


def _options(model: Model) -> list[str]:
    flags = []
    for name, value in model.engine_args.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return flags


def _is_up(session: Session, url: str) -> bool:
    if not session.runs():
        raise RuntimeError("vLLM's server ended while starting")
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False
