"""A cluster of a benchmark's own: a head on this machine, and whatever deploy config it is to run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.local import Head, start_head, stop_head
from cluster.opening import Opening
from cluster.serve_client import ServeClient
from cluster.session import until
from cluster.target import connect_to

START_TIMEOUT_S = 300.0
NUM_CPUS = 8  # that the head hands out: they decide who may start, not who runs on what


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
    """Serve what `deploy_config` makes in a folder of its own, until every model has answered. `env` goes to
    every process.

    Raises TimeoutError: that takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        state = Path(scratch, "state")
        head = start_head(state, num_cpus=num_cpus, env=env)
        try:
            with connect_to(head) as client:
                deploy = deploy_config(Path(scratch))
                url = f"http://127.0.0.1:{deploy['http_options']['port']}"
                client.put(deploy)
                wait_until_open(client, url, deploy)
                yield Cluster(url, client, head, deploy)
        finally:
            stop_head(state)


def wait_until_open(
    client: ServeClient,
    url: str,
    deploy: dict[str, Any],
    poll_s: float = 0.5,
    limit_s: float = START_TIMEOUT_S,
) -> None:
    """Every application runs, and the router has had an answer of every model. Raises TimeoutError."""
    opening = Opening(url, deploy, (), lambda event: None)
    if not until(lambda: _all_run(client, len(deploy["applications"])) and opening.done(), limit_s, poll_s):
        raise TimeoutError(f"not up within {limit_s:g} s: {opening.last_seen}; {client.details()}")


def _all_run(client: ServeClient, num_apps: int) -> bool:
    apps = client.details().get("applications", {})
    return len(apps) == num_apps and all(app["status"] == "RUNNING" for app in apps.values())
