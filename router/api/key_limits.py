"""What one API key may use of the cluster, and what all keys may use together of this router replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.admission.lease import Limit
from router.admission.leases import Holdings, Leases, OwnKeeper
from router.admission.limit_ledger import LimitLedger
from router.api_key import ApiKey
from router.errors import InvalidRequest, Overloaded

# What each limit is called in OpenAI's headers. Of two limits on tokens, the first that a key has is shown.
HEADERS = (("requests", (Limit.REQUESTS,)), ("tokens", (Limit.TOKENS, Limit.DAY_TOKENS)))


class KeyLimits:
    """Counts the open requests of this router, and what keys use by `leases`.

    Every choice of a request counts as one answer: `n` choices use as much of a key's limits as `n` requests.
    The counts belong to the key's name, and the limits to the current route table, so a changed limit holds
    from the next request on. All runs on one event loop, so nothing needs a lock.
    """

    def __init__(self, leases: Leases | None = None) -> None:
        self.num_open = 0  # requests, of all clients
        self.leases = leases or Leases(OwnKeeper(LimitLedger()))

    @asynccontextmanager
    async def request(self, key: ApiKey | None, max_requests: int) -> AsyncIterator[OpenRequest]:
        """Count a request while the block runs, as one answer at first. If refused, it costs its key nothing.

        Raises, on entering the block:
            Overloaded: `max_requests` are open, with any key or without one.
            RateLimited: the key is over one of its limits.
        """
        if self.num_open >= max_requests:
            raise Overloaded(
                f"this router has {self.num_open} requests open, which is its limit; try again in 1 s"
            )
        request = OpenRequest(self.leases, key)
        self.num_open += 1
        try:
            await request.begin()
            yield request
        finally:
            self.num_open -= 1
            request.release()

    def headers(self, key: ApiKey) -> dict[str, str]:
        """OpenAI's headers for each limit that the key has."""
        headers: dict[str, str] = {}
        holdings = self.leases.holdings(key)
        for name, limits in HEADERS:
            limit = next((limit for limit in limits if limit.of(key) is not None), None)
            if limit is not None:
                headers |= _headers(name, limit, holdings, self.leases.day_left_s)
        return headers


class OpenRequest:
    """A request that counts against the limits of its key until it is released: as one answer at first."""

    def __init__(self, leases: Leases, key: ApiKey | None) -> None:
        self._leases = leases
        self._key = key
        self._num_answers = 0

    async def begin(self) -> None:
        if self._key is not None:
            await self._take(self._key, 1)

    async def count_choices(self, num_choices: int, field: str) -> None:
        """Count the request as `num_choices` answers. `field` is the request field that asks for them.

        Raises:
            InvalidRequest: the limits of the key never allow so many at once.
            RateLimited: they exceed the limits at present; the request costs its key nothing.
        """
        key = self._key
        if key is None or num_choices == self._num_answers:
            return
        _require_possible(key, num_choices, field)
        num_counted, self._num_answers = self._num_answers, 0
        self._leases.give_back(key.name, num_counted)
        await self._take(key, num_choices)

    def release(self) -> None:
        if self._key is not None and self._num_answers:
            self._leases.end(self._key.name, self._num_answers)

    async def _take(self, key: ApiKey, num_answers: int) -> None:
        await self._leases.take(key, num_answers)
        self._num_answers = num_answers


def _require_possible(key: ApiKey, num_choices: int, field: str) -> None:
    for limit in (Limit.OPEN, Limit.REQUESTS):
        most = limit.of(key)
        if most is not None and num_choices > most:
            raise InvalidRequest(
                f"{field}: the request asks for {num_choices} choices, but {limit.value} of key '{key.name}' "
                f"is {most}, and every choice counts as one; ask for at most {most} at once",
                field,
            )


def _headers(name: str, limit: Limit, holdings: Holdings, day_left_s: float) -> dict[str, str]:
    holding = holdings[limit]
    return {
        f"x-ratelimit-limit-{name}": str(holding.limit),
        f"x-ratelimit-remaining-{name}": str(holding.remaining),
        f"x-ratelimit-reset-{name}": _duration(holding.reset_s(day_left_s)),
    }


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 1.5s, 6m0s, 2h3m4s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, left_s = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{left_s:.3g}s"
