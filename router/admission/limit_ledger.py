"""The ledger of limits: how much of each key's limits is used, and which router holds what is left.

One ledger serves a cluster. It needs no clock but its own, and no network: routers report to it in turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from router.admission.lease import ROUNDING, KeyUse, Lease, LeaseReport, Limit, Renewal, Reports, UseByKey

# A router that has not reported for so long is gone, and what it held comes back.
ROUTER_TTL_S = 10.0
FORGET_PERIOD_S = 1.0
DAY_S = 86_400


class LimitLedger:
    """`clock`: monotonic seconds. `wall_clock`: seconds since 1970, which tell when a day begins."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._day = 0
        self._forgot_at_s = -math.inf
        self._seen_at_s: dict[str, float] = {}  # by router
        self._pools: dict[tuple[str, Limit], _Pool] = {}

    def renew(self, router: str, day: int, reports: Reports) -> Renewal:
        """As `LimitKeeper.renew`."""
        now_s = self._clock()
        self._begin_day()
        self._seen_at_s[router] = now_s
        self._forget_routers(now_s)
        leases = {
            key: {limit: self._renewed(key, limit, router, day, report) for limit, report in each.items()}
            for key, each in reports.items()
        }
        left_s = (self._day + 1) * DAY_S - self._wall_clock()
        return Renewal(leases, len(self._seen_at_s), self._day, left_s)

    def use(self) -> UseByKey:
        """As `LimitKeeper.use`."""
        self._begin_day()
        self._forget_routers(self._clock())
        found: dict[str, dict[Limit, KeyUse]] = {}
        for (key, limit), pool in self._pools.items():
            used = pool.num_open if limit is Limit.OPEN else pool.today
            found.setdefault(key, {})[limit] = KeyUse(used, pool.limit)
        return found

    def _renewed(self, key: str, limit: Limit, router: str, day: int, report: LeaseReport) -> Lease:
        now_s = self._clock()
        pool = self._pools.get((key, limit))
        if pool is None:
            kind = _MinutePool if limit.is_per_minute else _CountedPool
            pool = self._pools[key, limit] = kind(limit, report, now_s)
        if router not in pool.held and day == self._day:  # this ledger is new, or has forgotten the router
            pool.today = max(pool.today, report.today)
        pool.set_limit(report.limit)
        return pool.renew(router, report, len(self._seen_at_s), now_s)

    def _begin_day(self) -> None:
        day = int(self._wall_clock() // DAY_S)
        if day != self._day:
            self._day = day
            for pool in self._pools.values():
                pool.today = 0.0

    def _forget_routers(self, now_s: float) -> None:
        if now_s - self._forgot_at_s < FORGET_PERIOD_S:
            return
        self._forgot_at_s = now_s
        gone = [router for router, at_s in self._seen_at_s.items() if now_s - at_s > ROUTER_TTL_S]
        for router in gone:
            del self._seen_at_s[router]
        for pool in self._pools.values():
            pool.forget(gone, now_s)


@dataclass(slots=True)
class _Held:
    """What one router holds of a pool, by its last report."""

    spare: float
    used: float
    wanted: float
    at_s: float


class _Pool:
    """One limit of one key. What routers hold and what is left are never more than the limit permits."""

    def __init__(self, kind: Limit, report: LeaseReport, now_s: float) -> None:
        self.limit = report.limit
        self.held: dict[str, _Held] = {}
        self.today = 0.0
        self._kind = kind
        self._sum = _Held(0.0, 0.0, 0.0, now_s)  # over all routers, so that a renewal does not add them up

    @property
    def num_open(self) -> float:
        return self._sum.used

    def renew(self, router: str, report: LeaseReport, num_routers: int, now_s: float) -> Lease:
        """Count what the router has used; take back what it does not need, or give it more."""
        before = self.held.get(router) or _Held(0.0, report.acknowledged, 0.0, now_s)
        used = report.used - before.used
        if self._kind is not Limit.OPEN:
            self.today += used
        if self.limit is None:
            self._put(router, _Held(0.0, report.used, report.wanted, now_s))
            return Lease(0.0, 1.0, 0.0, self.today)
        wanted = max(report.wanted, report.needed)
        held = _Held(max(0.0, report.spare), report.used, wanted, now_s)
        self._put(router, held)
        self._settle(before.spare - used, report.spare, now_s)
        share = held.wanted / self._sum.wanted if self._sum.wanted else 1 / num_routers
        given = self._target(held.spare, report, share) - held.spare
        self._give(given)
        held.spare += given
        self._sum.spare += given
        return Lease(held.spare, share, self._left(), self.today)

    def set_limit(self, limit: int | None) -> None:
        self.limit = limit

    def forget(self, routers: list[str], now_s: float) -> None:
        """Take back what these routers hold, and what a router holds that reports no more of this key."""
        for router, held in list(self.held.items()):
            if router in routers or now_s - held.at_s > ROUTER_TTL_S:
                self._give(-held.spare)
                self._put(router, None)

    def _put(self, router: str, held: _Held | None) -> None:
        """Replace what a router holds; None: nothing any more."""
        before = self.held.pop(router, None)
        if held is not None:
            self.held[router] = held
        if not self.held:  # without the rounding of earlier sums
            self._sum = _Held(0.0, 0.0, 0.0, 0.0)
            return
        for each, sign in ((before, -1), (held, 1)):
            if each is not None:
                self._sum.spare += sign * each.spare
                self._sum.used += sign * each.used
                self._sum.wanted += sign * each.wanted

    def _target(self, spare: float, report: LeaseReport, share: float) -> float:
        """How much the router is to hold. At least half of what can be held ahead stays here, for all."""
        left = max(0.0, self._left())
        ahead = max(0, min(report.wanted, math.floor(self._at_most() * share / 2)))
        if report.needed <= spare and ahead <= spare:
            return max(ahead, report.needed)
        at_once = min(max(0.0, report.needed - spare), math.floor(left + ROUNDING))
        return spare + max(at_once, min(ahead - spare, math.floor(left * share)))

    def _left(self) -> float:
        """What no router holds."""
        raise NotImplementedError

    def _at_most(self) -> float:
        """What all routers may hold together."""
        raise NotImplementedError

    def _settle(self, expected: float, spare: float, now_s: float) -> None:
        """A router that should have `expected` left says that it has `spare`."""

    def _give(self, num: float) -> None:
        """A router gets `num` more; negative: it gives back."""


class _CountedPool(_Pool):
    """The tokens of a day, or the answers that are open: what is left follows from what is used."""

    def _left(self) -> float:
        return self._at_most() - self._sum.spare

    def _at_most(self) -> float:
        assert self.limit is not None
        return self.limit - (self.num_open if self._kind is Limit.OPEN else self.today)


class _MinutePool(_Pool):
    """A limit per minute: a token bucket that refills evenly.

    What routers hold counts as if it were still here, so that idle routers do not add to the burst. A bucket
    with a debt, of tokens that were counted after they were used, refills first.
    """

    def __init__(self, kind: Limit, report: LeaseReport, now_s: float) -> None:
        super().__init__(kind, report, now_s)
        self._at_s = now_s
        # If a router has used the key before, this ledger is a new one, and the burst may be used already.
        is_known = report.acknowledged > 0
        self._level = 0.0 if self.limit is None or is_known else kind.burst(self.limit)
        self._largest_burst = 0.0 if self.limit is None else kind.burst(self.limit)

    def set_limit(self, limit: int | None) -> None:
        if limit is not None and limit != self.limit:
            burst = self._kind.burst(limit)
            # What a higher limit allowed before does not count against the key. Each limit gives its burst
            # once: while a table changes, routers report the old and the new limit by turns.
            grown = max(0.0, burst - self._largest_burst)
            self._level = min(burst, max(0.0, self._level) + grown)
            self._largest_burst += grown
        super().set_limit(limit)

    def _left(self) -> float:
        return self._level

    def _at_most(self) -> float:
        assert self.limit is not None
        return self._kind.burst(self.limit)

    def _settle(self, expected: float, spare: float, now_s: float) -> None:
        assert self.limit is not None
        unexpected = max(0.0, spare) - max(0.0, expected)
        if unexpected > 0:  # the router gave itself a share while this ledger was away
            self._level -= min(unexpected, max(0.0, self._level))
        else:  # it never got its last lease
            self._level -= unexpected
        self._level += min(0.0, spare)  # a debt is paid from here
        refilled = self._level + self.limit / 60 * (now_s - self._at_s)
        self._level = max(self._level, min(refilled, self._at_most() - self._sum.spare))
        self._at_s = now_s

    def _give(self, num: float) -> None:
        self._level -= num
