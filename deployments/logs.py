"""What a replica logs: never a prompt, an answer or a key, and one traceback per cause and minute.

How much of a message is logged depends on the logger that it comes from:

- of our own loggers (`OWN`), all of it: they pass exceptions as arguments, never inside the text;
- of Ray's, the first line, unless it quotes the exception that is being handled;
- of other libraries, the first line of the format string, without its arguments. Text that has no arguments
  may have been formatted before, so of that only the place is logged.

Exceptions are logged as `deployments.error_text` says, wherever they appear. Logs in JSON have the id of the
request's trace too, and none of the fields that other libraries add to a record.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ray.exceptions import TaskCancelledError
from ray.serve.exceptions import RequestCancelledError
from starlette.requests import ClientDisconnect

from deployments.error_text import causes, describe, format_traceback, original, place, related, short_path
from experts.errors import InvalidCall
from router.errors import RequestError
from router.tracing import CURRENT_TRACE

OWN = ("deployments", "experts", "router")
SERVE = logging.getLogger("ray.serve")

TRACEBACK_PERIOD_S = 60.0
MAX_REMEMBERED = 256  # causes; the one not seen for longest is forgotten first

# The client left or sent an invalid request: nothing to investigate, however often it happens.
_CANCELLED = asyncio.CancelledError | GeneratorExit | RequestCancelledError | TaskCancelledError
_EXPECTED = InvalidCall | RequestError | ClientDisconnect | _CANCELLED


def set_up_logs(clock: Callable[[], float] = time.monotonic) -> None:
    """Call at the start of every replica, once its libraries are imported. A second call changes nothing.

    Every record goes to Serve's logger, into the replica's log with the request's id. The filter sits on the
    logger, because Serve replaces its handlers whenever its logging is configured.
    """
    if not any(isinstance(known, PrivacyFilter) for known in SERVE.filters):
        SERVE.addFilter(PrivacyFilter(clock))
    root = logging.getLogger()
    root.handlers = [_ToServe()]
    for name in OWN:
        logging.getLogger(name).setLevel(logging.INFO)
    for library in [*root.manager.loggerDict.values()]:
        # Some libraries add their own handlers, which write to stderr and know no request id.
        if isinstance(library, logging.Logger) and library.handlers and library is not SERVE:
            library.handlers.clear()
            library.propagate = True
    threading.excepthook = sys.unraisablehook = _log_unhandled


class PrivacyFilter(logging.Filter):
    """Reduces records to what may be logged. It keeps no exception, and so no frame, alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # By the types and places in the chain of causes: when last logged in full, how often left out since.
        self._seen: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()
        self._lock = threading.RLock()  # reentrant: a garbage collection in here may log something
        self._fields = vars(logging.makeLogRecord({})).keys() | {"message", "taskName"}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] != "ray":
            for name in vars(record).keys() - self._fields:
                delattr(record, name)
        if (trace := CURRENT_TRACE.get()) is not None:
            record.trace_id = trace.context.trace_id
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args, record.exc_info = _message(record, error), (), None
        return error is None or self._add(record, error)

    def _add(self, record: logging.LogRecord, error: BaseException) -> bool:
        """Adds the exception to the message; False if the record should be dropped."""
        is_due, num_left_out = self._count(error)
        is_expected = isinstance(original(error), _EXPECTED)
        if is_expected:
            record.levelno, record.levelname = logging.INFO, "INFO"
        if is_due and not is_expected:
            # Formatters take the text as it is; Ray's looks for an exc_info as well.
            record.exc_info = (type(error), None, None)  # type: ignore[assignment]
            record.exc_text = format_traceback(error)
        else:
            record.msg += f" [{describe(error)}]"
        if num_left_out:
            record.msg += f" ({num_left_out} like it left out)"
        return is_due or not is_expected

    def _count(self, error: BaseException) -> tuple[bool, int]:
        """Whether to log the cause in full now, and how often it was left out since the last time."""
        chain = tuple(f"{type(link).__qualname__}{place(link)}" for link in causes(error))
        with self._lock:
            now_s = self._clock()
            logged_s, num_left_out = self._seen.pop(chain, (-math.inf, 0))
            is_due = now_s - logged_s >= TRACEBACK_PERIOD_S
            num_left_out += not is_due
            self._seen[chain] = (now_s, 0) if is_due else (logged_s, num_left_out)
            if len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
            return is_due, num_left_out


class _ToServe(logging.Handler):
    """Passes records to Serve's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if SERVE.isEnabledFor(record.levelno):
            SERVE.handle(record)
        if record.levelno >= logging.WARNING:
            for handler in SERVE.handlers:
                handler.flush()  # Serve buffers lines until an error, and the replica may be killed before


def _log_unhandled(args: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
    """In place of Python's hook, which prints the message of what ends a thread or a destructor."""
    if not isinstance(args.exc_value, SystemExit):  # a normal way to end a thread
        logging.getLogger(__name__).error("unhandled exception", exc_info=args.exc_value)


def _message(record: logging.LogRecord, error: BaseException | None) -> str:
    package = record.name.partition(".")[0]
    if isinstance(record.msg, BaseException):
        return describe(record.msg)
    if package not in (*OWN, "ray"):
        return _first_line(str(record.msg)) if record.args else _left_out(record)
    record.args = _plain(record.args)
    try:
        message = record.getMessage()
        if package in OWN:
            return message
        handled = [link for found in (error, sys.exception()) if found for link in related(found)]
        quotes = [text for link in handled for text in _spellings(link)]
    except Exception:  # raised by an argument; logging itself would print the arguments
        return _left_out(record)
    is_quoting = any(quote and quote in message for quote in quotes)
    return _left_out(record) if is_quoting else _first_line(message)


def _spellings(error: BaseException) -> list[str]:
    """How others may quote an exception, line by line: as text, or at the end of a traceback."""
    texts = [str(error), repr(error), *traceback.format_exception_only(error)]
    return [line.strip() for text in texts for line in text.splitlines()]


def _left_out(record: logging.LogRecord) -> str:
    return f"(a message of {record.name} at {short_path(record.pathname)}:{record.lineno} is left out)"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]  # further lines are tracebacks, or dumps of objects


def _plain(value: Any) -> Any:
    """The value, with exceptions and tasks, which hold one, replaced by what may be logged of them."""
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, asyncio.Future | concurrent.futures.Future):
        return type(value).__name__
    if type(value) in (tuple, list, set, frozenset):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(part) for key, part in value.items()}
    return value
