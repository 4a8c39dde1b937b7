"""The router's second port: which models answer at the moment, and how one that sleeps is started."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class State(StrEnum):
    """What may be expected of a call made now."""

    READY = "ready"  # it has answered, and nothing says that it went away since
    ASLEEP = "asleep"  # scaled to zero: a call would wait until it is started
    WAKING = "waking"  # being started, or started elsewhere and not asked yet
    AWAY = "away"  # it has answered, and no replica of it does at the moment
    MASKED = "masked"  # it has not answered yet, or nobody knows it (any more)
    FAILED = "failed"  # every replica says that it cannot load the model's adapter


class Routes(Protocol):
    """Live: an answer under way sees at its next decision what opened or closed meanwhile."""

    def state(self, name: str) -> State: ...

    def wake(self, name: str) -> None:
        """Begin to start the model, unless that is under way; the start belongs to no caller."""
        ...

    async def awake(self, name: str) -> None:
        """Wait until the model answers (again), starting it if it sleeps; all who wait share one start.

        Raises:
            WakeFailed: it did not start.
            ModelUnavailable: the route was taken away.
        """
        ...

    def stalled(self, name: str, request_id: str) -> None:
        """The replica that had this call of the model produced nothing in time: others are preferred."""
        ...

    def num_slots(self, app: str) -> int:
        """How many calls this router may have at the application: those that its replicas took, and a few
        more, for Serve's autoscaler counts calls that wait for a replica and not those that wait in the
        router."""
        ...

    def max_slots(self, app: str) -> int:
        """How many that will be when the replicas took as many as they can, if no other router calls them."""
        ...
