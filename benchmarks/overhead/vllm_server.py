"""vLLM's own server, in its own processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.overhead.model import ENGINE_ENV, NAME, Model
from cluster.local.ports import free_ports
from cluster.local.process_session import Session
from cluster.polling import until

START_TIMEOUT_S = 300.0
# The executor of our engine, by its name: on CPUs, vLLM makes `mp` of `uni`.
IN_PROCESS = ("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor")


@contextmanager
def vllm_server(model: Model, folder: Path, further: Sequence[str] = ()) -> Iterator[str]:
    """Yields the URL."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    options = ["--model", str(model.folder), "--served-model-name", NAME, "--host", "127.0.0.1"]
    command = [*server, *options, "--port", str(port), *_options(model), *further]
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
        if isinstance(value, bool):
            flags += [flag] if value else []
        else:
            flags += [flag, str(value)]
    return flags


def _is_up(session: Session, url: str) -> bool:
    if not session.runs():
        raise RuntimeError("vLLM's server ended during its start")
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False
