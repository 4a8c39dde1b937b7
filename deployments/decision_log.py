"""The decision log of one router replica: files of JSON lines on its node, written by a thread."""

from __future__ import annotations

import fcntl
import json
import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from router.decision_log_rules import DecisionLogRules
from router.decisions.log_lines import Line
from router.decisions.metrics import LOG_DROPPED, LOG_LINES, Metrics

# Answers whose lines are not written yet. If a disk stops for longer, lines are lost, and no answer waits.
MAX_QUEUED = 4096
MAX_REPLICAS = 1024  # of routers on one node

logger = logging.getLogger(__name__)

_MakeLines = Callable[[], Iterable[Line]]


class FileDecisionLog:
    """A `router.decisions.recorder.DecisionLog`, which is off until `configure` is called with rules."""

    def __init__(self, metrics: Metrics, max_queued: int = MAX_QUEUED) -> None:
        self._metrics = metrics
        self._queue: queue.Queue[_MakeLines | None] = queue.Queue(max_queued)
        self._rules: DecisionLogRules | None = None
        self._file: _RotatedFile | None = None
        self._thread: threading.Thread | None = None

    def write(self, make_lines: _MakeLines) -> bool:
        if self._thread is None:
            return False
        try:
            self._queue.put_nowait(make_lines)
        except queue.Full:
            self._metrics.add(LOG_DROPPED, 1, {"reason": "queue_full"})
        return True

    def configure(self, rules: DecisionLogRules | None) -> None:
        """Write by these rules from now on; None: write nothing. Blocks until earlier lines are written."""
        if rules == self._rules:
            return
        self.close()
        self._rules = rules
        if rules is not None:
            self._file = _RotatedFile(rules)
            self._thread = threading.Thread(target=self._write_all, args=(self._file,), daemon=True)
            self._thread.start()

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
        self._rules = None

    def _write_all(self, file: _RotatedFile) -> None:
        while (make_lines := self._queue.get()) is not None:
            for line in make_lines():
                try:
                    file.write(json.dumps(line, separators=(",", ":")))
                except OSError as error:
                    logger.warning("a line of the decision log could not be written: %s", error)
                    self._metrics.add(LOG_DROPPED, 1, {"reason": "write_failed"})
                else:
                    self._metrics.add(LOG_LINES, 1, {})
        file.close()


class _RotatedFile:
    """`decisions-HOST-N.jsonl`, with the first N that no other replica on this node uses.

    So the files of a replica that ended are continued, and their number does not grow. It is opened by the
    first line, so that a folder that cannot be written loses lines and stops no router.
    """

    def __init__(self, rules: DecisionLogRules) -> None:
        self._rules = rules
        self._handler: _Handler | None = None
        self._lock: TextIOWrapper | None = None

    def write(self, line: str) -> None:
        """Raises OSError."""
        if self._handler is None:
            self._handler = self._open()
        self._handler.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        if self._handler is not None:
            self._handler.close()
        if self._lock is not None:
            self._lock.close()

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
            return _Handler(
                path, maxBytes=self._rules.max_bytes, backupCount=self._rules.num_files, encoding="utf-8"
            )
        raise OSError(f"{folder}: {MAX_REPLICAS} routers write here already")


class _Handler(RotatingFileHandler):
    """Raises what goes wrong; the library would print it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        raise
