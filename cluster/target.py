"""Which cluster a command means: one by address, or a head started on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.blocks import Replicated
from cluster.config import DEFAULT_HOST, DEFAULT_PORT, ClusterConfig, RouterBlock
from cluster.errors import ConfigError, HeadNotFound
from cluster.hosts import serving_url
from cluster.local import Head, find_head, state_root
from cluster.serve_client import ServeClient


def connect(name: str | None, address: str | None) -> ServeClient:
    """A client for `address` if given, else for the head started here under `name`, else for the only one.

    Raises:
        HeadNotFound: none runs here, or several do and none is named.
    """
    if address:
        return ServeClient(address, auth_token())
    head = find_head(state_root() / (name or only_name()))
    if head is None:
        raise HeadNotFound(f"no head of cluster '{name}' runs here; run `etr up` or give --address")
    return connect_to(head)


def connect_to(head: Head) -> ServeClient:
    return ServeClient(head.dashboard_url, head.auth_token)


def only_name() -> str:
    """The name of the one cluster whose head runs here. Raises HeadNotFound."""
    running = running_names()
    if not running:
        raise HeadNotFound("no head that etr started runs here; run `etr up` or give --address")
    if len(running) > 1:
        raise HeadNotFound(
            f"several clusters run here: {', '.join(running)}; choose one with --name (etr ask: --url)"
        )
    return running[0]


def running_names() -> list[str]:
    return sorted(path.parent.name for path in state_root().glob("*/head.json") if find_head(path.parent))


def local_url() -> str:
    """Where the one cluster of this machine serves; where it would by default if none runs.

    Raises HeadNotFound where several run, ServeUnreachable.
    """
    if not running_names():
        return f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    with connect(only_name(), None) as client:
        return url_of(client.details(), client.address)


def url_of(details: Mapping[str, Any], address: str) -> str:
    """Where a cluster serves, as seen from here: `details` is what Serve says of itself at `address`."""
    options = details.get("http_options") or {}
    host, port = options.get("host", DEFAULT_HOST), options.get("port", DEFAULT_PORT)
    return serving_url(host, port, address)


def auth_token() -> str | None:
    """Ray's own way of giving a client the cluster's token."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token or not path:
        return token
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError([f"RAY_AUTH_TOKEN_PATH: {path} cannot be read ({error.strerror})"]) from error


def num_logical_cpus(config: ClusterConfig) -> int:
    """How many CPUs a head on this machine hands out: enough for every replica the file allows, twice over.

    Reservations only decide who may start; the machine's real cores are shared by all of them. The second
    half is for replicas that overlap in an update and for experts added later.
    """
    blocks: list[Replicated | RouterBlock] = [*config.models.values(), config.router]
    wanted = sum(block.autoscaling.max_replicas * block.resources.num_cpus for block in blocks)
    return max(os.cpu_count() or 1, round(2 * wanted) + 1)
