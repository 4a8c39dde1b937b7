"""A program in a process session of its own: find and end every process of the session, and nothing else.

Ray's workers move to process groups of their own and some rewrite their command line and environment, so
neither names all of them. None leaves the session. A session is either ours as a whole or not at all: only
`fork` adds a process to it, and the kernel does not reuse its number while one of its processes lives.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cluster.polling import until

TERM_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 10.0
BEGIN_TIMEOUT_S = 1.0
MARK_VARIABLE = "ETR_SESSION_MARK"


@dataclass(frozen=True, slots=True)
class Session:
    """A program that was started by `start`.

    Attributes:
        pid: of the program, and so the number of its session. Another process may have it by now.
        mark: a text in the program's command line that no other program has.
    """

    pid: int
    mark: str

    @staticmethod
    def start(command: Sequence[str], env: Mapping[str, str], log_path: Path, mark: str) -> Session:
        """Start a program that continues when this process ends. Its output goes to `log_path`.

        Not with subprocess.Popen, which warns about a child that outlives it.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_path), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        marked = {**env, MARK_VARIABLE: mark}
        pid = os.posix_spawn(command[0], list(command), marked, file_actions=actions, setsid=True)
        return Session(pid, mark)

    def runs(self) -> bool:
        """Whether the program itself runs."""
        return self._leader() == "ours"

    def processes(self, known: Collection[psutil.Process] = ()) -> list[psutil.Process]:
        """Every live process of the session; none if the number belongs to another session by now.

        If the program is gone, one process must prove that the session is ours: by our mark, or because it is
        `known` to be ours.
        """
        leader = self._leader()
        if leader == "another":
            return []
        members = [process for process in psutil.process_iter() if self._contains(process)]
        if leader == "ours" or any(process in known or self._is_marked(process) for process in members):
            return members
        return []

    def end(self, term_timeout_s: float = TERM_TIMEOUT_S) -> None:
        """SIGTERM to the program, which should end its own; then SIGKILL to what is left of the session."""
        known = self.processes()
        for process in [psutil.Process(self.pid)] if self.runs() else known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        if until(lambda: not self.processes(known), term_timeout_s):
            return
        for process in self.processes(known):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: not self.processes(known), KILL_TIMEOUT_S)

    def _leader(self) -> Literal["ours", "gone", "another"]:
        """Which process has our number. A process that is ending has no command line any more."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        try:
            command = _command_line(psutil.Process(self.pid))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return "gone"
        except psutil.AccessDenied:
            return "another"
        if not command:
            return "gone"
        return "ours" if any(self.mark in part for part in command) else "another"

    def _contains(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            return False

    def _is_marked(self, process: psutil.Process) -> bool:
        """Whether the mark is in its command line, its environment or the path of a file that it has open.

        A Ray worker that has rewritten the first two still writes to a log below the head's folder.
        """
        return any(self.mark in text for text in _traces(process))


def _traces(process: psutil.Process) -> Iterator[str]:
    with contextlib.suppress(psutil.Error):
        yield from process.cmdline()
    with contextlib.suppress(psutil.Error):
        yield process.environ().get(MARK_VARIABLE, "")
    with contextlib.suppress(psutil.Error):
        yield from (file.path for file in process.open_files())


def _command_line(process: psutil.Process) -> list[str]:
    """Empty for a process that is ending, and for a moment for one that has just begun."""
    found: list[str] = []

    def is_known() -> bool:
        found.extend(process.cmdline())
        return bool(found)

    until(is_known, BEGIN_TIMEOUT_S, poll_s=0.01)
    return found
