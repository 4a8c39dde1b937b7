"""What one router holds of one limit of one key: its lease, and what it has used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import ceil, exp, inf

from router.admission.lease import ROUNDING, Lease, LeaseReport, Limit
from router.errors import RateLimited

# A key that was used within this time keeps a part of its limits at this router.
IDLE_S = 60.0
# After a refusal, so long is the keeper not asked again for the same key.
MIN_REFUSAL_S = 0.05
AHEAD_S = 2.0  # a lease is for so long, at the present demand
DEMAND_S = 4.0  # over which the demand is averaged
MIN_REPORT_S = 0.05  # in a shorter time, the demand cannot be measured

REFUSALS = {
    Limit.REQUESTS: "asks for more than its {limit} requests per minute (every choice counts as one)",
    Limit.TOKENS: "has used more than its {limit} tokens per minute",
    Limit.DAY_TOKENS: "has used its {limit} tokens of today",
    Limit.OPEN: "has as many answers open as its max_concurrent of {limit} permits (every choice counts)",
}


@dataclass(slots=True)
class Holding:
    """Fields as in `LeaseReport` and `Lease`. `waiting`: what requests that wait need. `asked`: what was
    asked for since `measured_at_s`, and `demand` a moving average of it per second."""

    kind: Limit
    measured_at_s: float
    limit: int | None = None
    used: float = 0.0
    acknowledged: float = 0.0
    spare: float = 0.0
    share: float | None = None  # None before the first lease
    left: float | None = None
    today: float = 0.0
    waiting: float = 0.0
    asked: float = 0.0
    demand: float = 0.0
    asked_at_s: float = -inf
    reported_at_s: float = -inf
    grown_at_s: float = -inf  # up to when the lease includes what refills
    refused_until_s: float = -inf

    def set_limit(self, limit: int | None) -> None:
        if limit != self.limit:
            self.limit, self.refused_until_s = limit, -inf
            if limit is None:
                self.spare = 0.0

    def least(self, num: int) -> float:
        """What a lease must have for `num` answers to begin. Tokens may be owed; and so may a request with
        more choices than half of a burst."""
        if self.limit is None or self.kind is Limit.OPEN:
            return num
        if self.kind is Limit.REQUESTS:
            return min(num, max(1.0, self.kind.burst(self.limit) / 2))
        return 1.0

    def has(self, num: int) -> bool:
        return self.limit is None or self.spare + ROUNDING >= self.least(num)

    def use(self, num: float) -> None:
        """Negative: give back."""
        self.used += num
        if self.limit is not None:
            self.spare -= num

    def is_active(self, now_s: float) -> bool:
        """Whether the keeper has to know of it."""
        is_open = self.kind is Limit.OPEN and self.used > 0
        is_used = self.used != self.acknowledged or self.spare != 0
        return is_open or is_used or self.waiting > 0 or self.asked > 0 or now_s - self.asked_at_s < IDLE_S

    def report(self, now_s: float) -> LeaseReport:
        self._measure(now_s)
        self.reported_at_s = now_s
        wanted = max(AHEAD_S * self.demand, self.asked, 1.0 if now_s - self.asked_at_s < IDLE_S else 0.0)
        return LeaseReport(
            self.limit,
            self.used,
            self.acknowledged,
            self.spare,
            ceil(wanted - ROUNDING),
            self.waiting,
            self.today,
        )

    def renew(self, sent: LeaseReport, lease: Lease, now_s: float) -> None:
        """Take the keeper's answer to a report. What was used meanwhile is used of the new lease."""
        self.acknowledged = sent.used
        self.share, self.left, self.today = lease.share, lease.left, lease.today
        self.grown_at_s = now_s
        if self.limit is not None and sent.limit is not None:
            self.spare += lease.spare - sent.spare

    def grow_alone(self, now_s: float, default_share: float) -> None:
        """The keeper is away: what is left belongs to all routers, each of which takes its share."""
        if self.limit is None:
            return
        share = default_share if self.share is None else self.share
        if self.kind is Limit.OPEN:
            self.spare = max(self.spare, max(1, math.floor(share * self.limit)) - self.used)
        elif self.kind is Limit.DAY_TOKENS:
            self.spare += share * max(0.0, self.limit if self.left is None else self.left)
            self.left = 0.0
        else:
            refilled = self.spare + share * self.limit / 60 * min(now_s - self.grown_at_s, IDLE_S)
            self.spare = max(self.spare, min(refilled, max(1.0, share * self.kind.burst(self.limit))))
        self.grown_at_s = now_s

    def is_refused(self, now_s: float) -> bool:
        """Whether the keeper has said that there is nothing left."""
        return now_s < self.refused_until_s

    def refuse(self, now_s: float, wait_s: float) -> None:
        if not self.is_refused(now_s):
            pause_s = min(wait_s, 1.0) - ROUNDING
            self.refused_until_s = now_s + max(MIN_REFUSAL_S, pause_s)

    def wait_s(self, num: int, day_left_s: float, *, is_alone: bool) -> float:
        """Seconds until `num` answers may begin, as far as is known."""
        if self.limit is None or self.kind is Limit.OPEN:
            return 1.0
        if self.kind is Limit.DAY_TOKENS:
            return day_left_s
        share = (self.share or 1.0) if is_alone else 1.0
        left = 0.0 if is_alone else self.left or 0.0
        return max(0.0, self.least(num) - self.spare - left) / (share * self.limit / 60)

    def refusal(self, key_name: str, wait_s: float) -> RateLimited:
        retry_after_s = max(1, ceil(min(wait_s, 86_400) - ROUNDING))
        reason = REFUSALS[self.kind].format(limit=self.limit)
        return RateLimited(f"key '{key_name}' {reason}; try again in {retry_after_s} s", retry_after_s)

    @property
    def remaining(self) -> int:
        """What may be used at once, by what this router knows."""
        return max(0, math.floor(self.spare + max(0.0, self.left or 0.0) + ROUNDING))

    def reset_s(self, day_left_s: float) -> float:
        """Seconds until the limit is whole again, if nothing is used meanwhile."""
        if self.limit is None or not self.kind.is_per_minute:
            return day_left_s
        missing = self.kind.burst(self.limit) - self.spare - (self.left or 0.0)
        return max(0.0, missing) / (self.limit / 60)

    def _measure(self, now_s: float) -> None:
        if self.asked:
            self.asked_at_s = now_s
        passed_s = now_s - self.measured_at_s
        if passed_s >= MIN_REPORT_S:
            weight = 1 - exp(-passed_s / DEMAND_S)
            self.demand += weight * (self.asked / passed_s - self.demand)
            self.asked, self.measured_at_s = 0.0, now_s
