"""An application's replicas as they are for calls of one adapter: whoever lacks it may serve all others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.replicas import ReplicaSet

logger = logging.getLogger(__name__)


class AdapterReplicas:
    """A `ReplicaSet` whose suspects are those of the application, and those that lack the adapter.

    What a call finds out about the adapter counts here alone; all else counts for the application.
    """

    def __init__(self, replicas: ReplicaSet, adapter: str) -> None:
        self.is_proven = False
        self._replicas = replicas
        self._adapter = adapter
        self._lacking: frozenset[str] = frozenset()
        self._broken: frozenset[str] = frozenset()

    @property
    def running(self) -> frozenset[str]:
        return self._replicas.running

    @property
    def suspects(self) -> frozenset[str]:
        return self._replicas.suspects | (self._lacking & self.running)

    @property
    def healthy(self) -> frozenset[str]:
        return self.running - self.suspects

    @property
    def is_broken(self) -> bool:
        """Whether no replica that runs can load the adapter."""
        return bool(self.running) and self.running <= self._broken

    @property
    def num_taken(self) -> int:
        return self._replicas.num_taken

    def lacks(self, replica: str | None, *, is_broken: bool) -> None:
        """The replica does not have the adapter (yet), or said that it cannot load it."""
        if replica is None or replica not in self.running:
            return
        if replica not in self._lacking:
            told = "replica %s is avoided for adapter '%s', which it %s"
            logger.warning(told, replica, self._adapter, "cannot load" if is_broken else "does not have")
        self._lacking |= {replica}
        self._broken = self._broken | {replica} if is_broken else self._broken - {replica}
        self.look()

    def answered(self, replica: str | None) -> None:
        """The replica produced something, with the adapter."""
        self._replicas.answered(replica)
        if replica is None or replica not in self.running:
            return
        self._lacking -= {replica}
        self._broken -= {replica}
        self.is_proven = True

    def stalled(self, request_id: str) -> None:
        self._replicas.stalled(request_id)

    def look(self) -> None:
        """Take notice of what became of the replicas."""
        self._lacking &= self.running
        self._broken &= self.running
        self.is_proven = self.is_proven and bool(self.healthy)
