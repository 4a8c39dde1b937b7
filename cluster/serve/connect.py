"""Which cluster a command is for: the one at an address, or one whose head runs on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.addresses import serving_url
from cluster.config.cluster_config import ClusterConfig
from cluster.config.http import DEFAULT_HOST, DEFAULT_PORT
from cluster.config.replicated_model import ReplicatedConfig
from cluster.config.router import RouterConfig
from cluster.errors import ConfigError, HeadNotFound
from cluster.local.head import Head, find_head, state_root
from cluster.serve.client import ServeClient
from cluster.serve.serve_details import HttpOptions, ServeDetails


def connect(name: str | None, address: str | None) -> ServeClient:
    """A client for `address`, else for the head of cluster `name` here, else for the only head here.

    Raises:
        HeadNotFound: no head runs here, or several do and `name` is None.
    """
    if address:
        return ServeClient(address, auth_token())
    return connect_to(local_head(name))


def local_head(name: str | None) -> Head:
    """The head of cluster `name` on this machine, else the only head here.

    Raises:
        HeadNotFound: no head runs here, or several do and `name` is None.
    """
    head = find_head(state_root() / (name or only_name()))
    if head is None:
        raise HeadNotFound(f"no head of cluster '{name}' runs here; run `etr up` or give --address")
    return head


def connect_to(head: Head) -> ServeClient:
    return ServeClient(head.dashboard_url, head.auth_token)


def only_name() -> str:
    """The name of the only cluster whose head runs here.

    Raises:
        HeadNotFound: no head runs here, or several do.
    """
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
    """The URL of the only cluster on this machine; if none runs, the default URL.

    Raises:
        HeadNotFound: several run.
        ServeUnreachable, ServeRefused.
    """
    if not running_names():
        return f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    with connect(only_name(), None) as client:
        return url_of(client.details(), client.address)


def url_of(details: ServeDetails, address: str) -> str:
    """The URL of a cluster, as reached from here; `address` is the dashboard that gave `details`."""
    options = details.http_options or HttpOptions()
    return serving_url(options.host or DEFAULT_HOST, options.port or DEFAULT_PORT, address)


def auth_token() -> str | None:
    """The cluster's token, from the variables that Ray's own clients read. Raises ConfigError."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token or not path:
        return token
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError([f"RAY_AUTH_TOKEN_PATH: {path} cannot be read ({error.strerror})"]) from error


def num_logical_cpus(config: ClusterConfig) -> int:
    """How many CPUs Ray may hand out on this machine: enough for twice the replicas that the file allows.

    A reservation only decides whether a replica may start; all replicas share the machine's real cores. The
    second half is for replicas that overlap during an update, and for experts that are added later.
    """
    blocks: list[ReplicatedConfig | RouterConfig] = [*config.models.values(), config.router]
    wanted = sum(block.autoscaling.max_replicas * block.resources.num_cpus for block in blocks)
    return max(os.cpu_count() or 1, round(2 * wanted) + 1)
