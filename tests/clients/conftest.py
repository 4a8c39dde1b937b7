"""The server that real clients ask. It runs in the project's own environment, they in another."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Set before a test imports its client: none asks a hub, or loads torch more often than it must.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "GUIDELLM__MAX_WORKER_PROCESSES": "1",
    "OMP_NUM_THREADS": "1",
}
# `make test-clients` runs these tests in an environment that has the clients.
collect_ignore_glob = [] if find_spec("langchain_openai") else ["test_*.py"]


@dataclass(frozen=True)
class Server:
    """`tokenizer`: the folder of the models' tokenizer."""

    url: str
    tokenizer: Path

    @property
    def api(self) -> str:
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tokenizer")
    command = [f"{REPOSITORY}/.venv/bin/python", "-m", "tests.clients.server", str(folder)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "the server did not start"
        yield Server(url, folder)
        process.stdin.close()
