"""Hosts in cluster.yaml and in dashboard addresses: which are local, and the URL that clients use."""

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
    """The host of an http://host:port; None if it has none."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def serving_url(host: str, port: int, address: str) -> str:
    """The URL for clients here. A wildcard `host` is reached at the host of the dashboard `address`."""
    if host in WILDCARDS:
        host = host_of(address) or "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
