"""What one API key may take of this router replica, and what all of them may take together."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from router.errors import Overloaded, RateLimited
from router.table import ApiKey

# No bucket takes longer to fill, whatever the key's rate; see `_Bucket`.
FULL_AFTER_S = 60.0
# Whoever comes back exactly when told to must not fail over the last bit of a clock's reading.
ROUNDING = 1e-6


class KeyLimits:
    """Counts open requests and each key's pace. Nothing is awaited, so on one event loop nothing is locked.

    What is counted belongs to a key's name and the limits to the table of the moment, so a changed limit
    holds from the next request on. A name that asks no more is forgotten.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_open = 0
        self._clock = clock
        self._open_by_key: Counter[str] = Counter()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the longest unused first

    @property
    def num_keys(self) -> int:
        """How many keys anything is remembered of."""
        return len(self._open_by_key.keys() | self._buckets.keys())

    @contextmanager
    def request(self, key: ApiKey | None, max_requests: int) -> Iterator[None]:
        """Count a request while the block runs; one that is refused costs its key nothing.

        Raises, on entering the block:
            Overloaded: `max_requests` are open, of all keys and of nobody.
            RateLimited: this key has `max_concurrent` open, or asks faster than `requests_per_minute`.
        """
        self._forget()
        if self.num_open >= max_requests:
            raise Overloaded(f"{self.num_open} requests are open here, the most this router takes; try again")
        if key is not None:
            self._check_concurrent(key)
            self._take(key)
        self._count(key, 1)
        try:
            yield
        finally:
            self._count(key, -1)

    def _check_concurrent(self, key: ApiKey) -> None:
        num_open = self._open_by_key[key.name]
        if key.max_concurrent is not None and num_open >= key.max_concurrent:
            raise RateLimited(
                f"key '{key.name}' has {num_open} requests open, max_concurrent is {key.max_concurrent}; "
                "wait for one to end",
                retry_after_s=1,
            )

    def _take(self, key: ApiKey) -> None:
        rpm = key.requests_per_minute
        if rpm is None:
            self._buckets.pop(key.name, None)
            return
        now_s = self._clock()
        bucket = self._buckets.setdefault(key.name, _Bucket(now_s))
        self._buckets.move_to_end(key.name)
        wait_s = bucket.take(rpm, now_s)
        if wait_s > 0:
            retry_after_s = max(1, math.ceil(wait_s - ROUNDING))
            raise RateLimited(
                f"key '{key.name}' asks more than its {rpm} requests per minute; "
                f"try again in {retry_after_s} s",
                retry_after_s,
            )

    def _count(self, key: ApiKey | None, change: int) -> None:
        self.num_open += change
        if key is None:
            return
        self._open_by_key[key.name] += change
        if not self._open_by_key[key.name]:
            del self._open_by_key[key.name]

    def _forget(self) -> None:
        """Drop the buckets that must be full: they say no more than a new one would."""
        now_s = self._clock()
        while self._buckets:
            name, oldest = next(iter(self._buckets.items()))
            if now_s - oldest.at_s < FULL_AFTER_S:
                return
            del self._buckets[name]


@dataclass(slots=True)
class _Bucket:
    """A token bucket, kept as what was taken from it, so that a new rate or capacity needs no conversion.

    It refills evenly and holds a sixth of a minute's requests, at least one. A client's burst of ten seconds
    passes unhindered; were it a whole minute's, a key could ask twice its rate within one minute, and
    every idle key would be free to bring its minute at once. It is full again after ten seconds, or after
    one request's worth of time (a minute at the most) where it holds just one.
    """

    at_s: float
    taken: float = 0.0

    def take(self, rpm: int, now_s: float) -> float:
        """Take one, or return in how many seconds there will be one."""
        capacity, per_s = max(1.0, rpm / 6), rpm / 60
        # At most the capacity: what an earlier, larger limit allowed is not held against the key.
        self.taken = max(0.0, min(self.taken, capacity) - per_s * (now_s - self.at_s))
        self.at_s = now_s
        missing = self.taken + 1 - capacity
        if missing > ROUNDING:
            return missing / per_s
        self.taken += 1
        return 0.0
