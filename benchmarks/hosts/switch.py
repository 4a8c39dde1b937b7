"""Network namespaces at one switch, and faults of the links between them. Needs root, on Linux.

The switch is a bridge in a namespace of its own, so faults are where a real network has them: neither side of
a link sees an error. Nothing is left when the namespaces are deleted.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

DELAY_PROGRAM = Path(__file__).with_name("delay.py")
CLONE_NEWNET = 0x40000000

Result = TypeVar("Result")


@dataclass(frozen=True)
class Link:
    """From one address to another, in this direction only."""

    source: str
    target: str


@dataclass(frozen=True)
class Switch:
    """`mark` begins the name of every namespace, so that several runs do not meet."""

    mark: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def plug(self, name: str, address: str) -> str:
        """Create a namespace with one interface. Returns the namespace's name."""
        namespace = self.namespace(name)
        call("ip", "netns", "add", namespace)
        veth = (
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            name,
            "netns",
            self.namespace("switch"),
        )
        call("ip", "-n", namespace, *veth)
        call("ip", "-n", self.namespace("switch"), "link", "set", "dev", name, "master", "bridge", "up")
        call("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            call("ip", "-n", namespace, "link", "set", interface, "up")
        return namespace

    def namespace(self, name: str) -> str:
        return f"{self.mark}-{name}"

    @contextmanager
    def lossy(self, *links: Link, percent: int = 100) -> Iterator[None]:
        """Drop this share of the packets: at 100 the links swallow everything."""
        table = f"fault{next(self._numbers)}"
        chance = "" if percent == 100 else f"numgen random mod 100 < {percent}"
        rules = [f"ip saddr {link.source} ip daddr {link.target} {chance} drop" for link in links]
        chain = "\n".join(["type filter hook forward priority 0", *rules])
        self._nft(f"table bridge {table} {{\nchain links {{\n{chain}\n}}\n}}\n")
        try:
            yield
        finally:
            self._nft(f"delete table bridge {table}\n")

    @contextmanager
    def thin(self, name: str, rate: str) -> Iterator[None]:
        """Limit what reaches a host, and what leaves it, as `tc` writes rates: "64kbit"."""
        bucket = ("root", "tbf", "rate", rate, "burst", "8kb", "latency", "500ms")
        ends = [(self.namespace("switch"), name), (self.namespace(name), "eth0")]
        with ExitStack() as limits:
            for namespace, device in ends:
                tc = ("ip", "netns", "exec", namespace, "tc", "qdisc")
                call(*tc, "add", "dev", device, *bucket)
                limits.callback(call, *tc, "delete", "dev", device, "root")
            yield

    @contextmanager
    def slow(self, name: str, link: Link, delay_ms: int, jitter_ms: int) -> Iterator[None]:
        """Delay the packets of a host to an address, each by a random part of the jitter besides."""
        command = [sys.executable, "-I", str(DELAY_PROGRAM), link.source, link.target]
        with subprocess.Popen(
            ["ip", "netns", "exec", self.namespace(name), *command, str(delay_ms), str(jitter_ms)],
            stdout=subprocess.PIPE,
        ) as relay:
            assert relay.stdout is not None
            try:
                assert relay.stdout.readline(), "the relay did not start"
                yield
            finally:
                relay.terminate()

    def _nft(self, script: str) -> None:
        call("ip", "netns", "exec", self.namespace("switch"), "nft", "-f", "-", text=script)


@contextmanager
def switch() -> Iterator[Switch]:
    """A switch without hosts. All of its namespaces are deleted at the end."""
    made = Switch(f"etr{os.getpid()}")
    bridge = made.namespace("switch")
    try:
        call("ip", "netns", "add", bridge)
        call("ip", "-n", bridge, "link", "add", "bridge", "type", "bridge")
        call("ip", "-n", bridge, "link", "set", "bridge", "up")
        yield made
    finally:
        for line in call("ip", "netns", "list").splitlines():
            if line.startswith(f"{made.mark}-"):
                call("ip", "netns", "delete", line.split()[0])


def inside(namespace: str, function: Callable[[], Result]) -> Result:
    """Call a function in a thread whose sockets, and those of its threads, belong to the namespace."""

    def enter() -> Result:
        with Path("/run/netns", namespace).open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        return function()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter).result()


def call(*command: str, text: str = "") -> str:
    """The output of a command. Raises RuntimeError with what it wrote to stderr."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
