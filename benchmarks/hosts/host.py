"""A host of its own: network, processes, files and name are not shared with another host.

A host sees the operating system, Python's libraries and what is installed, all read from this machine, but
has temporary files, shared memory and models of its own. A loop in its first process starts the host's
program again when that ends, as systemd or a kubelet does, after everything else there was killed.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.hosts.node import CLOCK_FILE
from benchmarks.hosts.switch import Switch, call

MODELS = Path("/mnt/models")
TEMP_BYTES = 400_000_000
SHARED_MEMORY_BYTES = 300_000_000
RESTART_DELAY_S = 1
BOOT = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/installed {models}
mount --bind {installation} /mnt/installed
cp -r {world}/. {models}
mount -t tmpfs -o size={temp_bytes} tmpfs /tmp
mkdir -p {installation}
mount --bind /mnt/installed {installation}
mount -t tmpfs -o size={shared_bytes} tmpfs /dev/shm
mkdir /tmp/home
head -c 8 /dev/zero >{clock}
hostname {name}
cd /
set +e
while :; do
  {program}
  kill -9 -1
  sleep {delay_s}
done
"""


@dataclass(frozen=True)
class Host:
    """`pid`: the host's first process, as this machine numbers it."""

    name: str
    address: str
    pid: int

    def run(self, *command: str, env: Mapping[str, str]) -> str:
        """The output of a command on this host. Raises RuntimeError."""
        enter = ("nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "--wd=/")
        assigned = [f"{name}={value}" for name, value in env.items()]
        return call(*enter, "env", "-i", *assigned, *command)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process; the kernel still acknowledges what arrives."""
        self._send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._send(signal.SIGCONT)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Fill the temporary folder, in which Ray writes its logs and sockets."""
        filler = Path(f"/proc/{self.pid}/root/tmp/filler")
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def clock_off(self, offset_s: int) -> Iterator[None]:
        """Move the time of day. Only if the host was started with a clock of its own."""
        clock = Path(f"/proc/{self.pid}/root{CLOCK_FILE}")
        _write_in_place(clock, offset_s)
        try:
            yield
        finally:
            _write_in_place(clock, 0)

    def crash(self) -> None:
        """As if the host was switched off and on: everything but the first process is killed."""
        for process in self._processes():
            if process.pid != self.pid:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def _send(self, number: signal.Signals) -> None:
        for _ in range(2):  # a process that was forked during the first round
            for process in self._processes():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        ours = os.readlink(f"/proc/{self.pid}/ns/pid")
        return [process for process in psutil.process_iter() if _process_namespace(process.pid) == ours]


@contextmanager
def host(
    network: Switch,
    name: str,
    address: str,
    program: Sequence[str],
    env: Mapping[str, str],
    installation: Path,
    world: Path,
    log_path: Path,
) -> Iterator[Host]:
    """A host that runs `program`. All of its processes are killed at the end.

    `installation` has the same path there; a copy of `world` is at MODELS.
    """
    namespace = network.plug(name, address)
    boot = BOOT.format(
        models=MODELS,
        installation=installation,
        world=world,
        temp_bytes=TEMP_BYTES,
        shared_bytes=SHARED_MEMORY_BYTES,
        name=name,
        program=shlex.join(program),
        delay_s=RESTART_DELAY_S,
        clock=CLOCK_FILE,
    )
    spaces = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
    command = ("ip", "netns", "exec", namespace, "unshare", *spaces, "sh", "-c", boot)
    with (
        log_path.open("wb") as log,
        subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as outer,
    ):
        try:
            yield Host(name, address, _first_process(outer))
        finally:
            outer.kill()


def _write_in_place(clock: Path, offset_s: int) -> None:
    """Every process of the host has mapped the file."""
    with clock.open("r+b") as file:
        file.write(offset_s.to_bytes(8, sys.byteorder, signed=True))


def _first_process(outer: subprocess.Popen[bytes]) -> int:
    while outer.poll() is None:
        for child in psutil.Process(outer.pid).children():
            return child.pid
    raise RuntimeError("a host ended while starting; see its log")


def _process_namespace(pid: int) -> str | None:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return None
