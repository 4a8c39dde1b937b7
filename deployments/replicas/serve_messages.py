"""Serve's messages, which may be pages of tracebacks, in the one line that says why."""

from __future__ import annotations

import re
from collections.abc import Iterable

EXCEPTION = re.compile(r"[A-Za-z_][\w.]*: \S")


def root_message(messages: Iterable[str]) -> str:
    """Of the first message with text, the last line that names an exception, else the last line."""
    for message in messages:
        lines = [line.rstrip() for line in message.splitlines() if line.strip()]
        if lines:
            named = [line for line in lines if EXCEPTION.match(line)]
            return (named or lines)[-1].strip()
    return ""
