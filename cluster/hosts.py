"""Hosts as cluster.yaml and dashboard addresses name them: who can reach them, and by which URL."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

WILDCARDS = ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(address: str) -> str | None:
    """The host of an http://host:port; None where there is none."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def serving_url(host: str, port: int, address: str) -> str:
    """Where clients ask, as seen from here: a wildcard `host` is reached where the dashboard `address` is."""
    if host in WILDCARDS:
        host = host_of(address) or "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
