"""Which queues calls join after they leave one without output: a moving average."""

from __future__ import annotations

from collections.abc import Collection, Mapping

EWMA_ALPHA = 0.05  # the weight of the latest call
NEGLIGIBLE_SHARE = 0.005


class HandoffShares:
    """The share of recent calls that went on from one queue to each other queue, between 0 and 1."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def decay(self) -> None:
        """Count a call that left this queue. If it joins another queue next, `record` follows."""
        decayed = {name: share * (1 - EWMA_ALPHA) for name, share in self._shares.items()}
        self._shares = {name: share for name, share in decayed.items() if share > NEGLIGIBLE_SHARE}

    def record(self, queue: str) -> None:
        """The call that left last has joined this queue."""
        self._shares[queue] = self._shares.get(queue, 0.0) + EWMA_ALPHA

    def shares(self, queues: Collection[str]) -> Mapping[str, float]:
        """The share of each of these queues, without those that are negligible."""
        return {name: share for name, share in self._shares.items() if name in queues}
