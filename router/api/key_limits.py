"""What one API key may use of this router replica, and what all keys may use together."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from router.errors import InvalidRequest, Overloaded, RateLimited
from router.table import ApiKey

# The longest time that a bucket takes to refill, at any rate; see `_Bucket`.
MAX_REFILL_S = 60.0
# A client that retries exactly when it was told to must not be refused for a rounding error.
ROUNDING = 1e-6


class KeyLimits:
    """Counts the open requests, and the open answers and the request rate of each key.

    Every choice of a request counts as one answer: `n` choices use as much of a key's limits as `n` requests.
    The counts belong to the key's name, and the limits to the current route table, so a changed limit holds
    from the next request on. Keys without requests are forgotten. Nothing is awaited here, so one event loop
    needs no lock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_open = 0  # requests, of all clients
        self._clock = clock
        self._open_answers: Counter[str] = Counter()  # by key
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the least recently used first

    @contextmanager
    def request(self, key: ApiKey | None, max_requests: int) -> Iterator[OpenRequest]:
        """Count a request while the block runs, as one answer at first. If refused, it costs its key nothing.

        Raises, on entering the block:
            Overloaded: `max_requests` are open, with any key or without one.
            RateLimited: the key has `max_concurrent` answers open, or exceeds `requests_per_minute`.
        """
        self._drop_full_buckets()
        if self.num_open >= max_requests:
            raise Overloaded(
                f"this router has {self.num_open} requests open, which is its limit; try again in 1 s"
            )
        request = OpenRequest(self, key)
        self.num_open += 1
        try:
            yield request
        finally:
            self.num_open -= 1
            request.release()

    def take(self, key: ApiKey, num_answers: int) -> None:
        """Count `num_answers` more answers against the limits of the key.

        Raises:
            RateLimited: they exceed one of the limits of the key; nothing is counted.
        """
        num_open = self._open_answers[key.name]
        if key.max_concurrent is not None and num_open + num_answers > key.max_concurrent:
            asked = "" if num_answers == 1 else f" and this request asks for {num_answers} more"
            raise RateLimited(
                f"key '{key.name}' has {num_open} answers open{asked}; max_concurrent is "
                f"{key.max_concurrent}, and every choice counts as one; wait for one to end",
                retry_after_s=1,
            )
        self._take_from_bucket(key, num_answers)
        self._open_answers[key.name] += num_answers

    def end(self, key: ApiKey, num_answers: int) -> None:
        """Stop counting `num_answers` answers as open."""
        self._open_answers[key.name] -= num_answers
        if not self._open_answers[key.name]:
            del self._open_answers[key.name]

    def give_back(self, key: ApiKey, num_answers: int) -> None:
        """Undo `take`."""
        self.end(key, num_answers)
        if key.name in self._buckets:
            self._buckets[key.name].give_back(num_answers)

    def _take_from_bucket(self, key: ApiKey, num_answers: int) -> None:
        rpm = key.requests_per_minute
        if rpm is None:
            self._buckets.pop(key.name, None)
            return
        now_s = self._clock()
        bucket = self._buckets.setdefault(key.name, _Bucket(rpm, now_s))
        self._buckets.move_to_end(key.name)
        wait_s = bucket.take(num_answers, rpm, now_s)
        if wait_s > 0:
            retry_after_s = max(1, math.ceil(wait_s - ROUNDING))
            raise RateLimited(
                f"key '{key.name}' asks for more than its {rpm} requests per minute (every choice counts as "
                f"one); try again in {retry_after_s} s",
                retry_after_s,
            )

    def _drop_full_buckets(self) -> None:
        """Drop the buckets that must be full by now, since a new one would be too."""
        now_s = self._clock()
        while self._buckets:
            name, oldest = next(iter(self._buckets.items()))
            if now_s - oldest.at_s < MAX_REFILL_S:
                return
            del self._buckets[name]


class OpenRequest:
    """A request that counts against the limits of its key until it is released: as one answer at first."""

    def __init__(self, limits: KeyLimits, key: ApiKey | None) -> None:
        self._limits = limits
        self._key = key
        self._num_answers = 0
        if key is not None:
            self._take(key, 1)

    def count_choices(self, num_choices: int, field: str) -> None:
        """Count the request as `num_choices` answers. `field` is the request field that asks for them.

        Raises:
            InvalidRequest: the limits of the key never allow so many at once.
            RateLimited: they exceed the limits at present; the request costs its key nothing.
        """
        key = self._key
        if key is None or num_choices == self._num_answers:
            return
        _require_possible(key, num_choices, field)
        self._limits.give_back(key, self._num_answers)
        self._num_answers = 0
        self._take(key, num_choices)

    def release(self) -> None:
        if self._key is not None and self._num_answers:
            self._limits.end(self._key, self._num_answers)

    def _take(self, key: ApiKey, num_answers: int) -> None:
        self._limits.take(key, num_answers)
        self._num_answers = num_answers


@dataclass(slots=True)
class _Bucket:
    """A token bucket. It keeps what was taken, so that a new rate or capacity needs no conversion.

    It refills evenly and holds a sixth of a minute's requests, at least one. So a burst of ten seconds
    passes, but single choices cannot reach twice the rate within a minute, as they could if the bucket held a
    whole minute's. A request with more choices than the bucket holds passes when it is full, and leaves it in
    debt. Refilling takes ten seconds, or the time for one request if the bucket holds only one, or up to a
    minute if it is in debt.
    """

    rpm: int
    at_s: float
    taken: float = 0.0

    def take(self, num: int, rpm: int, now_s: float) -> float:
        """Take `num`, or take nothing and return how many seconds it is until they can be taken."""
        capacity, per_s = max(1.0, rpm / 6), rpm / 60
        if rpm != self.rpm:  # what a higher limit allowed before does not count against the key
            self.rpm, self.taken = rpm, min(self.taken, capacity)
        self.taken = max(0.0, self.taken - per_s * (now_s - self.at_s))
        self.at_s = now_s
        missing = self.taken + min(num, capacity) - capacity
        if missing > ROUNDING:
            return missing / per_s
        self.taken += num
        return 0.0

    def give_back(self, num: int) -> None:
        self.taken = max(0.0, self.taken - num)


def _require_possible(key: ApiKey, num_choices: int, field: str) -> None:
    limits = {"max_concurrent": key.max_concurrent, "requests_per_minute": key.requests_per_minute}
    for name, limit in limits.items():
        if limit is not None and num_choices > limit:
            raise InvalidRequest(
                f"{field}: the request asks for {num_choices} choices, but {name} of key '{key.name}' is "
                f"{limit}, and every choice counts as one; ask for at most {limit} at once",
                field,
            )
