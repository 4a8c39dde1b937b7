"""How long a call holds a slot of a model, on average and while the model is saturated."""

from __future__ import annotations

from router.clock import now_s

EWMA_ALPHA = 0.1  # the weight of the latest call in the mean of all calls
# Models slow down with concurrency. Until the first saturation has been measured, a saturated model is
# assumed to take this many times as long as the mean so far.
SATURATED_FACTOR = 5.0
MIN_ENDED = 5  # calls that must have ended for a measurement
# All slots must have been taken for this long before the model counts as saturated. Sooner, its replicas may
# merely not have accepted the calls that are on their way.
SETTLED_S = 0.5
# Calls per slot that a measurement covers at full weight; older ones count less and less.
WINDOW = 4


class ServiceTimeEstimator:
    """Estimates the hold time of a slot, in seconds, from the calls that end.

    While all slots are taken, Little's law gives the hold time: slots x elapsed time / calls ended. The mean
    duration of the calls that ended would be too low, since they began when fewer were running.
    """

    def __init__(self) -> None:
        self.mean_hold_s: float | None = None  # of all calls, whatever the load; None before the first
        self._saturated_hold_s: float | None = None  # as last measured
        self._full_since_s: float | None = None
        self._num_ended = 0.0  # since `_full_since_s`

    def filled(self) -> None:
        """All slots are taken. Repeating the call has no effect."""
        if self._full_since_s is None:
            self._full_since_s, self._num_ended = now_s(), 0.0

    def emptied(self) -> None:
        """A slot is free."""
        self._full_since_s = None

    @property
    def is_saturated(self) -> bool:
        return self._full_since_s is not None and now_s() - self._full_since_s >= SETTLED_S

    def ended(self, held_s: float, num_slots: int) -> None:
        """Count a call that held one of `num_slots` slots for `held_s` seconds."""
        mean_s = held_s if self.mean_hold_s is None else self.mean_hold_s
        self.mean_hold_s = mean_s + EWMA_ALPHA * (held_s - mean_s)
        if self._full_since_s is None:
            return
        self._num_ended += 1
        if self._num_ended >= _min_ended(num_slots):
            self._saturated_hold_s = self._current_hold_s(num_slots)
        if self._num_ended > 2 * WINDOW * num_slots:
            # Halve both the count and the elapsed time, so that old calls lose weight.
            self._num_ended /= 2
            self._full_since_s = (self._full_since_s + now_s()) / 2

    def hold_s(self, num_slots: int) -> float | None:
        """How long a slot is held while all are taken, partly guessed; None before the first call has ended.

        The estimate grows while no call ends, so a model that has come to a halt counts as slow at once.
        """
        if self.mean_hold_s is None:
            return None
        known_s = self._saturated_hold_s or SATURATED_FACTOR * self.mean_hold_s
        return max(known_s, self._current_hold_s(num_slots))

    @property
    def measured_hold_s(self) -> float | None:
        """`hold_s` without a guess: as measured at the last saturation, or else the mean."""
        return self._saturated_hold_s or self.mean_hold_s

    def _current_hold_s(self, num_slots: int) -> float:
        """From the calls that ended since all slots were taken. Until enough have, the time since then."""
        if self._full_since_s is None:
            return 0.0
        full_s = now_s() - self._full_since_s
        return full_s * num_slots / self._num_ended if self._num_ended >= _min_ended(num_slots) else full_s


def _min_ended(num_slots: int) -> float:
    return max(MIN_ENDED, num_slots / WINDOW)
