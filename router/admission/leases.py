"""The leases of one router: what each key may still use here, without asking the keeper of limits."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context

from router.admission.holding import IDLE_S, Holding
from router.admission.lease import Limit, LimitKeeper, Renewal, Reports, UseByKey
from router.admission.limit_ledger import DAY_S, LimitLedger
from router.api_key import ApiKey
from router.errors import ModelUnavailable, RateLimited

logger = logging.getLogger(__name__)

# By the name of the key.
Holdings = dict[Limit, Holding]


class OwnKeeper:
    """The keeper of a router that shares its limits with no other."""

    def __init__(self, ledger: LimitLedger) -> None:
        self._ledger = ledger

    async def renew(self, router: str, day: int, reports: Reports) -> Renewal:
        return self._ledger.renew(router, day, reports)

    async def use(self) -> UseByKey:
        return self._ledger.use()


class Leases:
    """Counts what each key uses, and takes leases ahead of need.

    A request waits for the keeper only if its key's leases here are used up and the keeper may have more.
    While the keeper does not answer, the last leases count: each router goes on with its share of the limit.
    """

    def __init__(self, keeper: LimitKeeper, clock: Callable[[], float] = time.monotonic) -> None:
        self.keeper = keeper
        self.is_alone = False  # the keeper did not answer last
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._by_key: dict[str, Holdings] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._is_for_all = False  # the next renewal; otherwise it is for keys whose requests wait
        self._num_routers = 1
        self._day, self._day_ends_at_s = 0, clock() + DAY_S

    async def take(self, key: ApiKey, num: int) -> None:
        """Count `num` answers that begin.

        Raises:
            RateLimited: they exceed one of the limits of the key; nothing is counted.
        """
        holdings = self._of(key)
        for limit in (Limit.REQUESTS, Limit.OPEN):
            holdings[limit].asked += num
        short = self._short(holdings, num)
        if short is not None and not self.is_alone and not short.is_refused(self._clock()):
            with _waiting(holdings, num):
                await self._renewed()
            short = self._short(holdings, num)
        if short is not None:
            raise self._refusal(key, short, num)
        for limit in (Limit.REQUESTS, Limit.OPEN):
            holdings[limit].use(num)

    def end(self, key_name: str, num: int) -> None:
        """`num` answers have ended."""
        self._by_key[key_name][Limit.OPEN].use(-num)

    def give_back(self, key_name: str, num: int) -> None:
        """Undo `take`."""
        self.end(key_name, num)
        self._by_key[key_name][Limit.REQUESTS].use(-num)

    def spend(self, key_name: str, num_tokens: int) -> None:
        """Count tokens of an answer, which a key may owe."""
        if key_name in self._by_key:
            for limit in (Limit.TOKENS, Limit.DAY_TOKENS):
                holding = self._by_key[key_name][limit]
                holding.asked += num_tokens
                holding.use(num_tokens)

    def holdings(self, key: ApiKey) -> Holdings:
        """What this router holds for the key, with its present limits."""
        return self._of(key)

    @property
    def day_left_s(self) -> float:
        return max(0.0, self._day_ends_at_s - self._clock())

    async def renew_all(self) -> None:
        """Tell the keeper of every key that was used lately. Must be called every `RENEWAL_PERIOD_S`."""
        self._is_for_all = True
        await self._renewed()

    async def _renewed(self) -> None:
        """Return after a renewal that began after this call, whether or not the keeper answered."""
        running = self._renewing
        if running is not None:
            await asyncio.wait({running})
        if self._renewing is running:
            # Not in the context of the request: Serve would end it with the request.
            self._renewing = asyncio.create_task(self._renew(), name="renew leases", context=Context())
        assert self._renewing is not None
        await asyncio.wait({self._renewing})

    async def _renew(self) -> None:
        reports = self._reports(self._clock(), for_all=self._is_for_all)
        self._is_for_all = False
        try:
            renewal = await self.keeper.renew(self._name, self._day, reports)
        except ModelUnavailable as error:
            if not self.is_alone:
                logger.warning("the limits of API keys are kept with the last leases: %s", error)
            self.is_alone = True
            return
        self.is_alone = False
        self._num_routers, self._day = renewal.num_routers, renewal.day
        self._day_ends_at_s = self._clock() + renewal.day_left_s
        for name, leases in renewal.leases.items():
            for limit, lease in leases.items():
                self._by_key[name][limit].renew(reports[name][limit], lease, self._clock())

    def _reports(self, now_s: float, *, for_all: bool) -> Reports:
        if for_all:
            self._forget_idle(now_s)
        return {
            name: {limit: holding.report(now_s) for limit, holding in holdings.items()}
            for name, holdings in self._by_key.items()
            if any(holding.waiting or (for_all and holding.is_active(now_s)) for holding in holdings.values())
        }

    def _of(self, key: ApiKey) -> Holdings:
        holdings = self._by_key.get(key.name)
        if holdings is None:
            now_s = self._clock()
            holdings = self._by_key[key.name] = {limit: Holding(limit, now_s) for limit in Limit}
        for limit, holding in holdings.items():
            holding.set_limit(limit.of(key))
        return holdings

    def _short(self, holdings: Holdings, num: int) -> Holding | None:
        """The first limit that `num` answers exceed now."""
        if self.is_alone:
            for holding in holdings.values():
                holding.grow_alone(self._clock(), 1 / self._num_routers)
        return next((holding for holding in holdings.values() if not holding.has(num)), None)

    def _refusal(self, key: ApiKey, holding: Holding, num: int) -> RateLimited:
        now_s = self._clock()
        wait_s = holding.wait_s(num, self.day_left_s, is_alone=self.is_alone)
        holding.refuse(now_s, wait_s)
        return holding.refusal(key.name, wait_s)

    def _forget_idle(self, now_s: float) -> None:
        """Long after the keeper has forgotten them, so that what is counted anew begins at nothing."""
        for name, holdings in list(self._by_key.items()):
            if all(holding.reported_at_s < now_s - IDLE_S for holding in holdings.values()) and not any(
                holding.is_active(now_s) for holding in holdings.values()
            ):
                del self._by_key[name]


@contextmanager
def _waiting(holdings: Holdings, num: int) -> Iterator[None]:
    """While a request waits, its key needs more."""
    needed = {limit: holding.least(num) for limit, holding in holdings.items()}
    for limit, holding in holdings.items():
        holding.waiting += needed[limit]
    try:
        yield
    finally:
        for limit, holding in holdings.items():
            holding.waiting -= needed[limit]
