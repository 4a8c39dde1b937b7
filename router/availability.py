"""The router's second port: which models can be called now, and how one that is asleep is started."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class ModelState(StrEnum):
    """What a call made now can expect."""

    READY = "ready"  # a replica has answered, and at least one is healthy
    ASLEEP = "asleep"  # scaled to zero: a call starts it and waits
    WAKING = "waking"  # starting, or started for another router and not probed by this one yet
    UNAVAILABLE = "unavailable"  # it has answered before, but has no healthy replica now
    MASKED = "masked"  # it has not answered yet, or it is not in the route table
    FAILED = "failed"  # its replicas die whatever they are asked, or none can load its adapter


class ModelAvailability(Protocol):
    """The state of every model, as of now: a running answer sees changes at its next decision."""

    def state(self, name: str) -> ModelState:
        """The state of a model; MASKED if the name is unknown."""
        ...

    def wake(self, name: str) -> None:
        """Start the model, if it is not starting already. The start goes on even if the caller leaves."""
        ...

    async def wait_until_ready(self, name: str) -> None:
        """Wait until the model answers, starting it if it is asleep. All callers share one start.

        Raises:
            WakeFailed: it did not start.
            ModelBroken: it is FAILED, or becomes so meanwhile.
            ModelUnavailable: it was removed from the route table.
        """
        ...

    def stalled(self, name: str, request_id: str) -> None:
        """The call `request_id` of the model got no token in time; its replica is avoided from now on."""
        ...

    def num_answered(self, name: str) -> int:
        """How many calls the model has answered to their end so far."""
        ...

    async def answers(self, name: str) -> bool:
        """Whether the model answers a small prompt now; it is asked, so this takes a while."""
        ...

    def num_slots(self, app: str) -> int:
        """How many calls this router may have at the application now.

        That is as many as its replicas have accepted and a few more. Serve's autoscaler counts calls that
        wait for a replica, but not those that wait in the router.
        """
        ...

    def max_slots(self, app: str) -> int:
        """What `num_slots` would be if this router's calls alone filled all replicas."""
        ...
