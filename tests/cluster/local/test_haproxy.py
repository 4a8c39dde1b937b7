"""Serve's HAProxy: where it has its files and ports, and whether it is there."""

from __future__ import annotations

import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import psutil
import pytest

from cluster.errors import HeadStartFailed
from cluster.haproxy_command import PATH_VARIABLE
from cluster.local import head as local_head
from cluster.local.haproxy import haproxy_env
from tests.conftest import Served

MAX_SOCKET_PATH = 107
NODE_ID = "f" * 56  # Ray's; Serve makes a folder of that name
WHILE_STARTING = ".4194304.tmp"  # HAProxy appends it, with its process id


def test_socket_paths_are_short_enough_for_unix():
    with tempfile.TemporaryDirectory(prefix="etr-", dir="/tmp") as folder:  # as a head has it
        env = haproxy_env(Path(folder))
    sockets = [Path(path) for name, path in env.items() if name.endswith("SOCKET_PATH")]
    assert len(sockets) == 2
    for path in sockets:
        assert len(str(path.parent / NODE_ID / path.name) + WHILE_STARTING) <= MAX_SOCKET_PATH


def test_every_file_is_in_the_private_folder_and_ports_differ(tmp_path: Path):
    env = haproxy_env(tmp_path)
    ports = [value for name, value in env.items() if name.endswith("PORT")]
    files = [value for name, value in env.items() if not name.endswith("PORT") and name != PATH_VARIABLE]
    assert len(set(ports)) == 3
    assert all(Path(path).is_relative_to(tmp_path) for path in files)


def test_without_haproxy_serves_own_proxies_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def find_none(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr("cluster.local.haproxy.find_spec", find_none)
    env = local_head._environment(str(tmp_path), {})
    assert env["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert env["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


def test_a_missing_command_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.local.haproxy.command_path", lambda: tmp_path / "etr-haproxy")
    with pytest.raises(HeadStartFailed, match="etr-haproxy is missing; install this package again"):
        haproxy_env(tmp_path)


@pytest.mark.cluster
def test_clients_connect_to_haproxy(served: Served):
    """A setting that one process of Serve lacks would leave clients with its proxies in Python, unnoticed."""
    port = served.config.http.port
    listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    pids = {one.pid for one in listening if one.laddr and one.laddr.port == port}
    assert {psutil.Process(pid).name() for pid in pids if pid} == {"haproxy"}
