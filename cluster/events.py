"""What happens while a cluster becomes what its file says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

ANSWERS = "ANSWERS"  # after Serve's RUNNING: the router has got an answer from it
STOPPED = "STOPPED"  # it is gone, and what it was writing is written


@dataclass(frozen=True, slots=True)
class AppEvent:
    """An application's status changed. `status` is Serve's word, ANSWERS or STOPPED."""

    app: str
    status: str
    message: str = ""


OnEvent = Callable[[AppEvent], None]
