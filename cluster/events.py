"""What happens while a cluster becomes what its file says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

ANSWERS = "ANSWERS"  # after Serve's RUNNING: the router has got an answer from it


@dataclass(frozen=True, slots=True)
class AppEvent:
    """An application's status changed. `status` is Serve's word, or ANSWERS."""

    app: str
    status: str
    message: str = ""


OnEvent = Callable[[AppEvent], None]
