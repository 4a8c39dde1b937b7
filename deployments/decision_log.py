"""The decision log of one router replica: files of JSON lines on its node, written by a thread."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from router.decision_log_rules import DecisionLogRules
from router.decisions.log_lines import Line
from router.decisions.metrics import LOG_DROPPED, LOG_LINES, Metrics

# Answers whose lines are not written yet. If a disk stops for longer, lines are lost, and no answer waits.
MAX_QUEUED = 4096
MAX_REPLICAS = 1024  # of routers on one node
# A thread that woke for each answer would take the interpreter's lock from the event loop each time.
BATCH_S = 0.2
CLOSE_TIMEOUT_S = 5.0
MAX_BATCH = 256  # answers
MAX_WRITE_SHARE = 1 / 16  # of a file's size, so that files are filled

logger = logging.getLogger(__name__)

_MakeLines = Callable[[], Iterable[Line]]


class FileDecisionLog:
    """A `router.decisions.recorder.DecisionLog`, which is off until `configure` is called with rules."""

    def __init__(self, metrics: Metrics, max_queued: int = MAX_QUEUED) -> None:
        self._metrics = metrics
        self._max_queued = max_queued
        self._rules: DecisionLogRules | None = None
        self._writer: _Writer | None = None

    def write(self, make_lines: _MakeLines) -> bool:
        if self._writer is None:
            return False
        self._writer.put(make_lines)
        return True

    def configure(self, rules: DecisionLogRules | None) -> None:
        """Write by these rules from now on; None: write nothing. Blocks as `close` does."""
        if rules == self._rules:
            return
        self.close()
        self._rules = rules
        if rules is not None:
            self._writer = _Writer(_RotatedFile(rules), self._metrics, self._max_queued)

    def close(self) -> None:
        """Blocks until earlier lines are written, for at most twice `CLOSE_TIMEOUT_S`: a disk may hang."""
        writer, self._writer, self._rules = self._writer, None, None
        if writer is not None:
            writer.close()


class _Writer:
    """A thread that writes lines to a file.

    It has a queue of its own: if its disk hangs, it takes no lines of its successor.
    """

    def __init__(self, file: _RotatedFile, metrics: Metrics, max_queued: int) -> None:
        self._metrics = metrics
        self._queue: queue.Queue[_MakeLines | None] = queue.Queue(max_queued)
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, args=(file,), daemon=True)
        self._thread.start()

    def put(self, make_lines: _MakeLines) -> None:
        if self._queue.qsize() > MAX_BATCH:
            # The thread is late. What makes lines holds the whole request, which may be large.
            made = list(make_lines())
            make_lines = partial(iter, made)
        try:
            self._queue.put_nowait(make_lines)
        except queue.Full:
            self._metrics.add(LOG_DROPPED, 1, {"reason": "queue_full"})

    def close(self) -> None:
        self._is_closing.set()
        try:
            self._queue.put(None, timeout=CLOSE_TIMEOUT_S)
        except queue.Full:  # the thread has to find an end, once its disk goes on
            with suppress(queue.Empty, queue.Full):
                self._queue.get_nowait()
                self._metrics.add(LOG_DROPPED, 1, {"reason": "queue_full"})
                self._queue.put_nowait(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning("the disk of the decision log hangs; its last lines may be lost")

    def _write_all(self, file: _RotatedFile) -> None:
        is_open = True
        while is_open:
            batch = self._next_batch()
            is_open = None not in batch
            lines = [line for make_lines in batch if make_lines is not None for line in make_lines()]
            texts = [json.dumps(line, separators=(",", ":")) for line in lines]
            for together in _grouped(texts, int(file.max_bytes * MAX_WRITE_SHARE)):
                self._write(file, together)
        file.close()

    def _next_batch(self) -> list[_MakeLines | None]:
        """What has come within a moment; None is its end."""
        batch = [self._queue.get()]
        if batch[0] is not None and self._queue.qsize() < MAX_BATCH:
            self._is_closing.wait(BATCH_S)
        while len(batch) < MAX_BATCH and batch[-1] is not None and not self._queue.empty():
            batch.append(self._queue.get())
        return batch

    def _write(self, file: _RotatedFile, lines: list[str]) -> None:
        try:
            file.write("\n".join(lines))
        except OSError as error:
            logger.warning("%d lines of the decision log could not be written: %s", len(lines), error)
            self._metrics.add(LOG_DROPPED, len(lines), {"reason": "write_failed"})
        else:
            self._metrics.add(LOG_LINES, len(lines), {})


def _grouped(lines: list[str], max_chars: int) -> Iterator[list[str]]:
    """The lines in groups of at most `max_chars`, or of one line."""
    group: list[str] = []
    num_chars = 0
    for line in lines:
        if group and num_chars + len(line) > max_chars:
            yield group
            group, num_chars = [], 0
        group.append(line)
        num_chars += len(line) + 1
    if group:
        yield group


class _RotatedFile:
    """`decisions-HOST-N.jsonl`, with the first N that no other replica on this node uses.

    So the files of a replica that ended are continued, and their number does not grow. It is opened by the
    first line, so that a folder that cannot be written loses lines and stops no router.
    """

    def __init__(self, rules: DecisionLogRules) -> None:
        self._rules = rules
        self._handler: _Handler | None = None
        self._lock: TextIOWrapper | None = None

    @property
    def max_bytes(self) -> int:
        return self._rules.max_bytes

    def write(self, lines: str) -> None:
        """Raises OSError: nothing more of the lines will be written."""
        try:
            if self._handler is None:
                self._handler = self._open()
            self._handler.handle(logging.makeLogRecord({"msg": lines}))
        except (OSError, ValueError) as error:  # ValueError: a rollover has failed after it closed the file
            self._abandon()
            raise OSError(str(error)) from error

    def close(self) -> None:
        """The next line opens it again."""
        handler, self._handler = self._handler, None
        lock, self._lock = self._lock, None
        if handler is not None:
            with suppress(OSError, ValueError):
                handler.close()
        if lock is not None:
            lock.close()

    def _abandon(self) -> None:
        """Close the file without what Python still holds of the lines, which count as lost."""
        if self._handler is not None and self._handler.stream is not None:
            buffer: Any = self._handler.stream.buffer
            with suppress(OSError, ValueError):
                buffer.raw.close()
        self.close()

    def _open(self) -> _Handler:
        folder = Path(self._rules.folder)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(MAX_REPLICAS):
            path = folder / f"decisions-{socket.gethostname()}-{number}.jsonl"
            lock = path.with_suffix(".lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._lock = lock
            _end_last_line(path)
            return _Handler(
                path, maxBytes=self._rules.max_bytes, backupCount=self._rules.num_files, encoding="utf-8"
            )
        raise OSError(f"{folder}: {MAX_REPLICAS} routers write here already")


def _end_last_line(path: Path) -> None:
    """A router that was killed, or a full disk, may have left half a line, which must not spoil the next."""
    with path.open("ab+") as file:
        if file.tell() == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.write(b"\n")


class _Handler(RotatingFileHandler):
    """Raises what goes wrong; the library would print it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        raise
