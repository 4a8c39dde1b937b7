"""Failures in vLLM's workers, as exceptions of this package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from vllm.v1.engine.exceptions import EngineDeadError

from experts.errors import ExpertsFault

_FORWARDED = re.compile(r"Worker failed with error '(.*)', please check the stack trace")


@contextmanager
def worker_errors(failure: str, error_type: type[ExpertsFault]) -> Iterator[None]:
    """Turn the failure of a call to vLLM's workers into one of `error_type`, in one line.

    `failure` says what failed. An EngineDeadError passes unchanged.
    """
    try:
        yield
    except EngineDeadError:
        raise
    except Exception as error:  # vLLM's client raises a bare Exception for any failure in a worker
        raise error_type(f"{failure}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The worker's own message, without the text that vLLM puts around it."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    forwarded = _FORWARDED.search(first_line)
    return forwarded[1] if forwarded else first_line
