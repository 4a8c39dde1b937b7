"""What may be revealed of an exception: its type and place, because its message may quote a prompt or a key.

Only our own faults (`ExpertsFault`, `RouterError`) quote nothing, so their messages are shown. Errors about a
request (`InvalidCall`, `RequestError`) show only their code: their messages are for the client alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

from ray.exceptions import RayTaskError

from experts.errors import ExpertsFault, InvalidCall
from router.errors import RequestError, RouterError

MAX_CAUSES = 16  # of one exception
MAX_FRAMES = 30  # of one traceback; the innermost are kept


def describe(error: BaseException) -> str:
    """One line: the type, and our own message or the place where it was raised."""
    cause = original(error)
    kind, at = type(cause).__name__, place(error)
    if isinstance(cause, InvalidCall | RequestError):
        return f"{kind} ({cause.code}){at}"
    if isinstance(cause, ExpertsFault | RouterError):
        return f"{kind}: {cause}"
    return f"{kind}{at}"


def format_traceback(error: BaseException) -> str:
    """The tracebacks of an exception and its causes, the first cause first, each ended by its `describe`."""
    parts = []
    for link in reversed([*causes(error)]):
        frames = traceback.format_tb(link.__traceback__, limit=-MAX_FRAMES)
        parts.append("Traceback (innermost frame last):\n" + "".join(frames) + describe(link))
    return "\n\nwhich led to\n\n".join(parts)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from and so on. In a group, the first exception is followed."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < MAX_CAUSES:
        yield link
        seen.add(id(link))
        link = (
            link.exceptions[0] if isinstance(link, BaseExceptionGroup) else link.__cause__ or link.__context__
        )


def related(error: BaseException) -> Iterator[BaseException]:
    """Every exception whose message may stand in a traceback of this one."""
    seen: set[int] = set()
    found: list[BaseException | None] = [error]
    while found:
        link = found.pop()
        if link is None or id(link) in seen:
            continue
        yield link
        seen.add(id(link))
        found += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            found += link.exceptions


def original(error: BaseException) -> BaseException:
    """What another process raised; Ray's wrapper holds the whole traceback as text, with its messages."""
    return error.cause if isinstance(error, RayTaskError) else error


def place(error: BaseException) -> str:
    """The innermost frame as " at folder/file:line"; "" if the exception was never raised."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    return f" at {short_path(frames[-1][0].f_code.co_filename)}:{frames[-1][1]}" if frames else ""


def short_path(path: str) -> str:
    return "/".join(Path(path).parts[-3:])
