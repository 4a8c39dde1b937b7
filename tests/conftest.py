"""What tests share. The demo's cluster is started once a session, and only if a test asks for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import yaml
from hypothesis import settings
from transformers import PreTrainedModel

from cluster.apply import apply
from cluster.config import ClusterConfig, load_config
from cluster.local import Head, start_head, stop_head
from cluster.target import connect_to, num_logical_cpus
from examples.demo.run import prepare
from experts.learn import Query, States, compute_states
from experts.prompt import PromptRenderer
from tests.taught_meta import query_set, taught_meta
from tests.tiny_tokenizers import byte_level

REPOSITORY = Path(__file__).resolve().parent.parent

# How long an example takes says what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@dataclass(frozen=True)
class Served:
    """A running demo cluster."""

    url: str
    config: ClusterConfig
    head: Head
    world: Path


@dataclass(frozen=True)
class Stats:
    """Asks replicas for their `load()`."""

    stdin: IO[str]
    stdout: IO[str]

    def of(self, app: str) -> dict[str, float]:
        self.stdin.write(f"{app}\n")
        self.stdin.flush()
        return json.loads(self.stdout.readline())


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `etr` keeps on this machine is the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETR_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def demo_world() -> Path:
    """The demo's models and tokens; built once and kept, as `make demo` does."""
    folder = REPOSITORY / ".cache" / "demo"
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def renderer() -> PromptRenderer:
    return PromptRenderer(byte_level())


@pytest.fixture(scope="session")
def taught_model(renderer: PromptRenderer) -> PreTrainedModel:
    """A tiny meta whose hidden states tell kinds of question apart; taught once a session, in seconds."""
    return taught_meta(renderer)


@pytest.fixture(scope="session")
def taught_folder(
    taught_model: PreTrainedModel, renderer: PromptRenderer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same as a checkpoint named "meta"."""
    folder = tmp_path_factory.mktemp("taught") / "meta"
    taught_model.save_pretrained(folder)
    renderer.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def queries() -> list[Query]:
    """What the taught meta is to learn experts from."""
    return query_set(0, 30)


@pytest.fixture(scope="session")
def states(taught_model: PreTrainedModel, renderer: PromptRenderer, queries: list[Query]) -> States:
    return compute_states(taught_model, renderer, queries, batch_size=7)


@pytest.fixture(scope="session")
def served(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    config = load_config(_on_a_free_port(demo_world, folder))
    head = start_head(folder / "state", num_cpus=num_logical_cpus(config))
    try:
        with connect_to(head) as client:
            url = apply(config, client)
        yield Served(url, config, head, demo_world)
    finally:
        stop_head(folder / "state")


@pytest.fixture(scope="session")
def stats(served: Served) -> Iterator[Stats]:
    address = Path(served.head.temp_dir, "ray_current_cluster").read_text(encoding="utf-8").strip()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": served.head.auth_token,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stats_probe", address],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as probe:
        assert probe.stdin is not None
        assert probe.stdout is not None
        assert probe.stdout.readline().strip() == "ready"
        yield Stats(probe.stdin, probe.stdout)
        probe.stdin.close()


def _on_a_free_port(world: Path, folder: Path) -> Path:
    """The demo's cluster.yaml for a second cluster beside one that may be running."""
    text = yaml.safe_load((world / "cluster.yaml").read_text(encoding="utf-8"))
    for block in (text["meta"], *text["experts"].values()):
        block["model"]["path"] = str(world / block["model"]["path"])
        if "token" in block:
            block["token"] = str(world / block["token"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        text["http"] = {"host": "127.0.0.1", "port": probe.getsockname()[1]}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path
