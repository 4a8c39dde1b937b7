"""A program in a session of its own: find and end everything it started, and nothing else.

Ray's workers move to process groups of their own and some of its processes rewrite their environment, so
neither names them all. None leaves the session, and the kernel gives a session's number to no other process
while one of its members lives.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

TERM_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 10.0
BEGIN_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Session:
    """`mark` is a text that only this program's command line has: process ids come round again."""

    pid: int
    mark: str

    @staticmethod
    def start(command: Sequence[str], env: Mapping[str, str], log_path: Path, mark: str) -> Session:
        """Start a program that goes on when we end. Its output goes to `log_path`.

        Not subprocess.Popen, which complains about a child that outlives it.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_path), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        return Session(
            os.posix_spawn(command[0], list(command), dict(env), file_actions=actions, setsid=True), mark
        )

    def runs(self) -> bool:
        """Whether the program itself runs."""
        return self._leader() == "ours"

    def processes(self) -> list[psutil.Process]:
        """Every live process of the session."""
        if self._leader() == "a stranger":  # then the number came round, so nobody of ours is left
            return []
        return [process for process in psutil.process_iter() if self._has(process)]

    def end(self, term_timeout_s: float = TERM_TIMEOUT_S) -> None:
        """SIGTERM to the program, which should end its own; SIGKILL to whatever is left of the session."""
        for process in [psutil.Process(self.pid)] if self.runs() else self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        if until(lambda: not self.processes(), term_timeout_s):
            return
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: not self.processes(), KILL_TIMEOUT_S)

    def _leader(self) -> Literal["ours", "gone", "a stranger"]:
        """Whose process has our number now. One that is ending has no command line any more."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        try:
            command = _command_line(psutil.Process(self.pid))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return "gone"
        except psutil.AccessDenied:
            return "a stranger"
        if not command:
            return "gone"
        return "ours" if any(self.mark in part for part in command) else "a stranger"

    def _has(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            return False


def _command_line(process: psutil.Process) -> list[str]:
    """Empty of a process that is ending, and for a moment of one that has just begun."""
    found: list[str] = []

    def is_known() -> bool:
        found.extend(process.cmdline())
        return bool(found)

    until(is_known, BEGIN_TIMEOUT_S, poll_s=0.01)
    return found


def until(condition: Callable[[], bool], timeout_s: float, poll_s: float = 0.1) -> bool:
    """Wait for a condition; False when it did not come true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(poll_s)
    return True
