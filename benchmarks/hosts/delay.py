"""Delays the packets that this network namespace sends to one address. A program for root.

A route sends the packets to a TUN device, and this program writes each of them back to it later. The kernel
then forwards it, by another routing table. The order of packets is kept, as on most real links.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
DEVICE, TABLE, PRIORITY = "slow", "77", "77"
MAX_PACKET_BYTES = 65536


async def delay(source: str, target: str, delay_s: float, jitter_s: float) -> None:
    """Runs until SIGTERM. Prints a line when the delay has begun."""
    loop = asyncio.get_running_loop()
    tun, last_s = _open(), 0.0

    def receive() -> None:
        nonlocal last_s
        packet = os.read(tun, MAX_PACKET_BYTES)
        last_s = max(last_s, loop.time() + delay_s + random.random() * jitter_s)
        loop.call_at(last_s, send, packet)

    def send(packet: bytes) -> None:
        if not ended.is_set():
            os.write(tun, packet)

    ended = asyncio.Event()
    _configure(source, target)
    loop.add_reader(tun, receive)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    print("delays", flush=True)
    try:
        await ended.wait()
    finally:
        os.close(tun)  # the device and its route go with it
        _ip("rule", "delete", "priority", PRIORITY)
        _ip("route", "flush", "table", TABLE)


def _open() -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def _configure(source: str, target: str) -> None:
    settings = Path("/proc/sys/net/ipv4")
    (settings / "ip_forward").write_text("1")
    for name, value in (("rp_filter", "0"), ("accept_local", "1")):  # the packets come from our own address
        (settings / "conf" / DEVICE / name).write_text(value)
    (settings / "conf" / "all" / "rp_filter").write_text("0")
    _ip("link", "set", DEVICE, "up")
    _ip("route", "add", target, "dev", "eth0", "table", TABLE)
    _ip("rule", "add", "iif", DEVICE, "lookup", TABLE, "priority", PRIORITY)
    _ip("route", "add", target, "dev", DEVICE, "src", source)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    _, own, other, *times_ms = sys.argv
    asyncio.run(delay(own, other, *(int(ms) / 1000 for ms in times_ms)))
