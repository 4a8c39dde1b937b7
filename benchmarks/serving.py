"""A cluster for one benchmark: a Ray head on this machine that runs a given deploy config."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.config.cluster_config import load_config
from cluster.local.head import Head, start_head, stop_head
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to
from cluster.serve.deploy_config import build_serve_config
from cluster.serve.readiness import ReadinessCheck
from cluster.serve.serve_details import RUNNING

START_TIMEOUT_S = 300.0
NUM_CPUS = 8  # logical CPUs: they limit which replicas may start, not which cores they use


@dataclass(frozen=True)
class Cluster:
    url: str
    client: ServeClient
    head: Head
    deploy: dict[str, Any]


@contextmanager
def served(
    deploy_config: Callable[[Path], dict[str, Any]],
    num_cpus: int = NUM_CPUS,
    env: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Serve the config that `deploy_config` makes in a temporary folder, and wait until all is ready.

    `env`: environment variables of every process. Raises TimeoutError if the start takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        state = Path(scratch, "state")
        head = start_head(state, num_cpus=num_cpus, env=env)
        try:
            with connect_to(head) as client:
                deploy = deploy_config(Path(scratch))
                url = f"http://127.0.0.1:{deploy['http_options']['port']}"
                client.put(deploy)
                wait_until_ready(client, url, deploy)
                yield Cluster(url, client, head, deploy)
        finally:
            stop_head(state)


def weightless_deploy_config(folder: Path, text: Mapping[str, Any]) -> dict[str, Any]:
    """The deploy config of a cluster.yaml with this `text`, which is written into `folder`, on a free port.

    Models with the path `.` have no weights; the benchmark puts applications of its own in their places.
    """
    # The only file that is read before a model loads.
    (folder / "config.json").write_text("{}", encoding="utf-8")
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({**text, "http": {"port": free_ports(1)[0]}}), encoding="utf-8")
    return build_serve_config(load_config(path))


def wait_until_ready(
    client: ServeClient,
    url: str,
    deploy: dict[str, Any],
    poll_s: float = 0.5,
    limit_s: float = START_TIMEOUT_S,
) -> None:
    """Wait until every application runs and every model has answered the router. Raises TimeoutError."""
    readiness = ReadinessCheck(url, deploy, (), lambda event: None)
    if not until(lambda: _all_run(client, len(deploy["applications"])) and readiness.done(), limit_s, poll_s):
        raise TimeoutError(f"not ready within {limit_s:g} s: {readiness.waiting_for}; {client.details()}")


def _all_run(client: ServeClient, num_apps: int) -> bool:
    apps = client.details().applications
    return len(apps) == num_apps and all(app.status == RUNNING for app in apps.values())
