"""Tells a model that cannot answer anything from a prompt that it cannot answer."""

from __future__ import annotations

MIN_DEATHS = 3  # a prompt that crashes replicas is blocked after two, so it cannot reach this number alone


class DeathCount:
    """The deaths of a model's replicas since it last answered a call.

    Attributes:
        num_answered: Calls answered to their end since the start, probes included.
        is_broken: More replicas died in a row than the model has, so it fails whatever it is asked. It stays
            so until a call is answered.
    """

    def __init__(self) -> None:
        self.num_answered = 0
        self.is_broken = False
        self._died: frozenset[str] = frozenset()

    def answered(self) -> None:
        """A call was answered to its end."""
        self.num_answered += 1
        self.is_broken, self._died = False, frozenset()

    def died(self, replica: str, num_running: int) -> None:
        """The replica died in a call; several calls that it had count as one death."""
        self._died |= {replica}
        self.is_broken = self.is_broken or len(self._died) >= max(MIN_DEATHS, num_running + 1)
