"""What a replica logs: never a prompt, an answer or a key, and one traceback per cause and minute.

The messages of foreign exceptions may quote whatever they were raised over, so of those only the type and the
place are told; so are the caller's mistakes, whose messages are for the caller. Our own faults name what went
wrong without quoting it, and are told whole.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray.exceptions import RayTaskError, TaskCancelledError
from ray.serve.exceptions import RequestCancelledError
from starlette.requests import ClientDisconnect

from experts.errors import ExpertsFault, InvalidCall
from router.errors import RequestError, RouterError

OURS = ("deployments", "experts", "router")
SERVE = logging.getLogger("ray.serve")

PERIOD_S = 60.0
MAX_CAUSES = 256  # remembered at once; the one not seen for longest is forgotten first
MAX_ERRORS = 16  # of one chain of causes
MAX_FRAMES = 30  # of one traceback; the innermost are kept
MIN_QUOTE_CHARS = 4  # shorter ones stand in every other line by chance
NEVER = -1  # a factory cannot refuse a record, but no handler's level is as low

GONE = asyncio.CancelledError | GeneratorExit | RequestCancelledError | TaskCancelledError
# Somebody left or asked for what cannot be: nothing to look into, however often it happens.
EXPECTED = InvalidCall | RequestError | ClientDisconnect | GONE

MakeRecord = Callable[..., logging.LogRecord]
Cause = tuple[tuple[str, str], ...]  # type and place of each exception of a chain, the last raised first


def set_up_logs() -> None:
    """At the start of every replica, once its libraries are imported. To call it again changes nothing.

    What reaches the root logger goes to Serve's handlers: into the replica's log, with the request's id.
    """
    if not isinstance(logging.getLogRecordFactory(), DiscreetRecords):
        logging.setLogRecordFactory(DiscreetRecords(logging.getLogRecordFactory()))
    root = logging.getLogger()
    if not any(isinstance(handler, _ToServe) for handler in root.handlers):
        root.addHandler(_ToServe())
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name, library in [*root.manager.loggerDict.items()]:
        # Some libraries bring handlers of their own, which write to stderr and know no request id.
        if isinstance(library, logging.Logger) and library.handlers and name.split(".")[0] != "ray":
            library.handlers.clear()
            library.propagate = True
    threading.excepthook = sys.unraisablehook = _log_unheard


class DiscreetRecords:
    """A factory of log records that hold no more than may be told, whatever handler they go to.

    Filters would not do: Serve makes its handlers anew when its logging is configured, and libraries bring
    handlers of their own. It keeps no exception, and so no frame, alive.
    """

    def __init__(self, make: MakeRecord, clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._causes = _Causes(clock)

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        raised = record.exc_info[1] if record.exc_info else None
        record.exc_info = None
        record.msg, record.args = _message(record, raised), ()
        if raised is not None:
            self._add(record, raised)
        return record

    def _add(self, record: logging.LogRecord, raised: BaseException) -> None:
        due, num_left_out = self._causes.note(raised)
        is_expected = isinstance(_original(raised), EXPECTED)
        if is_expected:
            record.levelno, record.levelname = logging.INFO if due else NEVER, "INFO"
        if due and not is_expected:
            # Formatters take the text as it is; Ray's asks for an exc_info besides.
            record.exc_info = (type(raised), None, None)  # type: ignore[assignment]
            record.exc_text = tell(raised)
        else:
            record.msg += f" [{brief(raised)}]"
        if num_left_out:
            record.msg += f" ({num_left_out} like it left out)"


def brief(error: BaseException) -> str:
    """One line that quotes nobody: the type, and our own message or the place it was raised at."""
    original = _original(error)
    kind, at = type(original).__name__, _place(error)
    if isinstance(original, InvalidCall | RequestError):
        return f"{kind} ({original.code}){at}"
    if isinstance(original, ExpertsFault | RouterError):
        return f"{kind}: {_text(original)}"
    return f"{kind}{at}"


def tell(error: BaseException) -> str:
    """The traceback of an exception and all it came from, first things first, each ended by its `brief`."""
    parts = []
    for one in reversed([*_chain(error)]):
        frames = traceback.format_tb(one.__traceback__, limit=-MAX_FRAMES)
        parts.append("Traceback (innermost frame last):\n" + "".join(frames) + brief(one))
    return "\n\nwhich led to\n\n".join(parts)


class _Causes:
    """What has gone wrong lately, and how often."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: OrderedDict[Cause, tuple[float, int]] = OrderedDict()
        # Reentrant: a collector that runs in here may find something to log.
        self._lock = threading.RLock()

    def note(self, error: BaseException) -> tuple[bool, int]:
        """Whether it is to be told in full, and how many since the last such time were not."""
        cause = tuple((type(one).__qualname__, _place(one)) for one in _chain(error))
        with self._lock:
            now = self._clock()
            told_at, num_left_out = self._seen.pop(cause, (-math.inf, 0))
            due = now - told_at >= PERIOD_S
            num_left_out += not due
            self._seen[cause] = (now, 0) if due else (told_at, num_left_out)
            if len(self._seen) > MAX_CAUSES:
                self._seen.popitem(last=False)
            return due, num_left_out


class _ToServe(logging.Handler):
    """Hands records to whatever handlers Serve has at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        if SERVE.isEnabledFor(record.levelno):
            SERVE.handle(record)
        if record.levelno >= logging.WARNING:
            for handler in SERVE.handlers:
                handler.flush()  # they wait for an error or many more lines, and a replica may be killed


def _log_unheard(args: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
    """Python prints what ends a thread or a destructor, message and all."""
    if not isinstance(args.exc_value, SystemExit):  # which ends a thread as it wishes
        logging.getLogger(__name__).error("failed where nobody was told", exc_info=args.exc_value)


def _message(record: logging.LogRecord, raised: BaseException | None) -> str:
    # A message may be put together from the exception that is being handled, without giving it along.
    errors = [error for error in (raised, sys.exception(), *_errors(record.args)) if error is not None]
    record.msg, record.args = _plain(record.msg), _plain(record.args)
    try:
        message = record.getMessage()
    except Exception:  # an argument's own; logging would print the arguments to say so
        return _left_out(record)
    package = record.name.split(".")[0] if record.name else ""
    if package not in OURS:
        message = message.strip().partition("\n")[0]  # further lines are tracebacks, or dumps of objects
        if raised is not None and package != "ray":
            return _left_out(record)
    if any(quote in message for error in errors for quote in _quotes(error)):
        return _left_out(record)
    return message


def _left_out(record: logging.LogRecord) -> str:
    return f"(a message of {record.name} at {_short(record.pathname)}:{record.lineno} is left out)"


def _errors(args: object) -> Iterator[BaseException]:
    values = args.values() if isinstance(args, dict) else args if isinstance(args, tuple | list) else (args,)
    for value in values:
        if isinstance(value, BaseException):
            yield value


def _plain(value: Any) -> Any:
    """The value, its exceptions replaced by what may be told of them."""
    if isinstance(value, BaseException):
        return brief(value)
    if isinstance(value, asyncio.Future | concurrent.futures.Future):  # which show what they hold
        return type(value).__name__
    if type(value) in (tuple, list, set, frozenset):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(one) for key, one in value.items()}
    return value


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all it came from, each once."""
    seen: dict[int, BaseException] = {}
    waiting: list[Any] = [error]
    while waiting and len(seen) < MAX_ERRORS:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen[id(one)] = one
        parts = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        waiting += [*reversed(parts), one.__context__, one.__cause__, _original(one)]
    yield from seen.values()


def _original(error: BaseException) -> BaseException:
    """What a task of another process raised; Ray's own holds that traceback as text, messages and all."""
    return error.cause if isinstance(error, RayTaskError) else error


def _place(error: BaseException) -> str:
    """The innermost frame as " at folder/file:line", "" if it was never raised."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    return f" at {_short(frames[-1][0].f_code.co_filename)}:{frames[-1][1]}" if frames else ""


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def _quotes(error: BaseException) -> Iterator[str]:
    """What a message must not contain, for it comes from an exception that may quote a request."""
    for one in _chain(error):
        if isinstance(one, ExpertsFault | RouterError) and not isinstance(one, RayTaskError | RequestError):
            continue
        given = (arg for arg in one.args if isinstance(arg, str))
        texts = [_text(one), *getattr(one, "__notes__", ()), *given]
        lines = (line.strip() for text in texts for line in [*text.splitlines(), repr(text)[1:-1]])
        yield from (line for line in lines if len(line) >= MIN_QUOTE_CHARS)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a class of anybody's
        return ""
