"""`etr-haproxy` with the options that Serve gives to HAProxy."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from cluster.haproxy_command import command_path
from cluster.local.ports import free_ports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Serve uses HAProxy on Linux only")

CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option abortonclose
    option splice-request
    option splice-response
frontend clients
    bind 127.0.0.1:{front}
    default_backend routers
backend routers
    server router 127.0.0.1:{back}
"""
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
DEADLINE_S = 10


async def test_a_router_learns_that_a_client_has_left_and_no_cpu_is_kept_busy(tmp_path: Path):
    front, back = free_ports(2)
    begun, asked, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reader.readexactly(2)
        asked.set()
        with suppress(ConnectionResetError):
            await reader.read()  # until HAProxy closes the connection
        left.set()
        writer.close()

    router = await asyncio.start_server(never_answer, "127.0.0.1", back)
    async with router, _haproxy(tmp_path, front, back) as haproxy, asyncio.timeout(DEADLINE_S):
        _, client = await _connect(front)
        client.write(HEAD)
        await begun.wait()
        client.write(b"{}")  # HAProxy may splice what comes after the head
        await asked.wait()
        client.close()
        await left.wait()
        before_s = _cpu_s(haproxy)
        await asyncio.sleep(0.5)  # a loop would take all of it
        assert _cpu_s(haproxy) - before_s < 0.25


@asynccontextmanager
async def _haproxy(folder: Path, front: int, back: int) -> AsyncIterator[psutil.Process]:
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(front=front, back=back), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(command_path(), "-db", "-f", config)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:  # HAProxy starts
            await asyncio.sleep(0.05)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
