"""Leases: the parts of a key's limits that routers hold, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from router.api_key import ApiKeyLimits

# How often a router renews its leases. Between two renewals it decides alone.
RENEWAL_PERIOD_S = 0.5
# A minute's limit refills evenly, and at most ten seconds of it are kept for a burst.
BURST_DIVISOR = 6
# A small error of rounding must not refuse a client that retries exactly when it was told to.
ROUNDING = 1e-6


class Limit(StrEnum):
    """What is limited. Each has a field of `ApiKeyLimits`."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    DAY_TOKENS = "tokens_per_day"
    OPEN = "max_concurrent"

    @property
    def is_per_minute(self) -> bool:
        return self in (Limit.REQUESTS, Limit.TOKENS)

    def of(self, limits: ApiKeyLimits) -> int | None:
        value: int | None = getattr(limits, self.value)
        return value

    def burst(self, limit: int) -> float:
        """How much can be used at once."""
        return max(1.0, limit / BURST_DIVISOR) if self.is_per_minute else float(limit)


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """What a router says of its lease on one limit of one key.

    Attributes:
        limit: The limit, by the router's table; None is no limit.
        used: Used since the router started; of open answers, those that are open now.
        acknowledged: The part of `used` that the keeper is known to have counted.
        spare: What the router may still use; negative if it used more.
        wanted: What it expects to use soon.
        needed: What waiting requests need at once; 0 if none waits.
        today: `Lease.today`, as the router was told last.
    """

    limit: int | None
    used: float
    acknowledged: float
    spare: float
    wanted: float
    needed: float
    today: float


@dataclass(frozen=True, slots=True)
class Lease:
    """What a router may use, as the keeper decides.

    Attributes:
        spare: What it may use until the next renewal.
        share: The part of the limit, 0 to 1, that it may use by itself while the keeper is away.
        left: What no router holds; negative if more was used than the limit permits.
        today: What all routers have used since midnight UTC.
    """

    spare: float
    share: float
    left: float
    today: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """The keeper's answer: leases by key and limit, the number of routers, the day, and how much is left of
    it. A day is a number, so that two days can be compared."""

    leases: Mapping[str, Mapping[Limit, Lease]]
    num_routers: int
    day: int
    day_left_s: float


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What all routers together use of one key's limit: `used` now or since midnight, and `limit`, if any."""

    used: float
    limit: int | None


Reports = Mapping[str, Mapping[Limit, LeaseReport]]
UseByKey = Mapping[str, Mapping[Limit, KeyUse]]


class LimitKeeper(Protocol):
    """The one place that knows the limits of the whole cluster."""

    async def renew(self, router: str, day: int, reports: Reports) -> Renewal:
        """Take the reports of a router, by key, and give it new leases. `day`: that of its last renewal.

        Raises:
            ModelUnavailable: the keeper does not answer.
        """
        ...

    async def use(self) -> UseByKey:
        """What is used of each key that was used today. Raises ModelUnavailable."""
        ...
