"""Limits that several routers keep together, each with leases of its own."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.admission.holding import Holding
from router.admission.lease import Limit, Renewal, Reports, UseByKey
from router.admission.leases import Leases, OwnKeeper
from router.admission.limit_ledger import DAY_S, LimitLedger
from router.api_key import ApiKey
from router.errors import ModelUnavailable, RateLimited

STEP_S = 0.25
NOON_S = 20_000 * DAY_S + DAY_S / 2


@dataclass
class Clock:
    """Time passes only when a test says so."""

    now_s: float = NOON_S

    def __call__(self) -> float:
        return self.now_s


class Keeper(OwnKeeper):
    """The keeper of several routers, which may be away. It counts how often it is asked."""

    def __init__(self, ledger: LimitLedger) -> None:
        super().__init__(ledger)
        self.is_away = False
        self.num_asked = 0

    async def renew(self, router: str, day: int, reports: Reports) -> Renewal:
        if self.is_away:
            raise ModelUnavailable("the keeper is away")
        self.num_asked += 1
        return await super().renew(router, day, reports)

    async def use(self) -> UseByKey:
        return await super().use()

    def restart(self, ledger: LimitLedger) -> None:
        self._ledger, self.is_away = ledger, False


@dataclass
class Cluster:
    """Routers with one keeper. `passed`: when answers began."""

    key: ApiKey
    num_routers: int = 4
    clock: Clock = field(default_factory=Clock)
    passed: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keeper = Keeper(LimitLedger(self.clock, self.clock))
        self.routers = [Leases(self.keeper, self.clock) for _ in range(self.num_routers)]

    async def ask(self, router: int, num: int = 1) -> bool:
        """Whether `num` answers begin; they end at once."""
        try:
            await self.routers[router].take(self.key, num)
        except RateLimited:
            return False
        self.routers[router].end(self.key.name, num)
        self.passed += [self.clock.now_s] * num
        return True

    async def spend(self, router: int, num_tokens: int) -> bool:
        if passed := await self.ask(router):
            self.routers[router].spend(self.key.name, num_tokens)
        return passed

    async def run(self, seconds: float, offered_per_s: float, weights: list[float] | None = None) -> int:
        """Offer requests evenly, each to a router by chance. Returns how many answers began."""
        begun, owed, chance = len(self.passed), 0.0, random.Random(7)
        for step in range(round(seconds / STEP_S)):
            owed += offered_per_s * STEP_S
            while owed >= 1:
                owed -= 1
                await self.ask(chance.choices(range(self.num_routers), weights)[0])
            self.clock.now_s += STEP_S
            if step % 2:
                await self.renew()
        return len(self.passed) - begun

    async def renew(self) -> None:
        for router in self.routers:
            await router.renew_all()

    def most_in_a_minute(self) -> int:
        return max((sum(began <= at < began + 60 for at in self.passed) for began in self.passed), default=0)


def key(**limits: Any) -> ApiKey:
    return ApiKey(name="a", sha256="0" * 64, **limits)


@pytest.mark.parametrize("weights", [None, [1, 0, 0, 0], [8, 1, 1, 1]], ids=["even", "one", "uneven"])
async def test_ten_times_the_limit_gets_the_limit_however_it_is_spread(weights: list[float] | None):
    cluster = Cluster(key(requests_per_minute=600))
    await cluster.run(15, 100, weights)
    assert await cluster.run(60, 100, weights) == pytest.approx(600, rel=0.05)


async def test_less_than_the_limit_is_never_refused_and_hardly_ever_waits_for_the_keeper():
    cluster = Cluster(key(requests_per_minute=600))
    await cluster.run(5, 8)
    num_asked = cluster.keeper.num_asked
    assert await cluster.run(60, 8) >= 479
    num_in_time = 4 * 120
    assert cluster.keeper.num_asked - num_asked - num_in_time < 0.05 * 480


async def test_a_router_that_gets_all_traffic_soon_has_nearly_all_of_the_limit():
    cluster = Cluster(key(requests_per_minute=600))
    await cluster.run(15, 100, [0, 1, 1, 1])
    assert await cluster.run(10, 100, [1, 0, 0, 0]) == pytest.approx(100, rel=0.1)


async def test_a_small_limit_is_left_with_the_keeper_so_any_router_may_use_it():
    cluster = Cluster(key(requests_per_minute=6))
    for router in range(4):
        assert await cluster.ask(router)
        assert not await cluster.ask((router + 1) % 4)
        await cluster.renew()
        cluster.clock.now_s += 10


@settings(max_examples=25)
@given(
    st.integers(1, 900),
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 3), st.integers(1, 3), st.integers(1, 25)), max_size=25
    ),
)
async def test_no_minute_has_more_than_the_limit_and_one_burst(
    rpm: int, asks: list[tuple[float, int, int, int]]
):
    cluster = Cluster(key(requests_per_minute=rpm))
    for pause_s, router, num_choices, times in asks:
        cluster.clock.now_s += pause_s
        for n in range(times):
            await cluster.ask((router + n) % 4, min(num_choices, max(1, rpm // 12)))
        await cluster.renew()
    assert cluster.most_in_a_minute() <= rpm + max(1, rpm / 6) + 0.01


@pytest.mark.parametrize("is_lost", [False, True], ids=["unreachable", "restarted"])
async def test_the_limit_holds_while_the_keeper_is_away_and_when_it_is_back(is_lost: bool):
    cluster = Cluster(key(requests_per_minute=600))
    await cluster.run(15, 100)
    cluster.keeper.is_away = True
    assert await cluster.run(60, 100) == pytest.approx(600, rel=0.05)
    cluster.keeper.restart(LimitLedger(cluster.clock, cluster.clock) if is_lost else cluster.keeper._ledger)
    num_back = await cluster.run(15, 100)
    assert num_back <= 150 + 100, "at most one further burst"
    assert await cluster.run(60, 100) == pytest.approx(600, rel=0.05)


async def test_less_than_the_limit_passes_while_the_keeper_is_away():
    cluster = Cluster(key(requests_per_minute=600))
    await cluster.run(5, 8)
    cluster.keeper.is_away = True
    await cluster.renew()
    assert await cluster.run(30, 8) >= 0.9 * 240


async def test_a_router_that_starts_while_the_keeper_is_away_keeps_the_limit_by_itself():
    cluster = Cluster(key(requests_per_minute=60), num_routers=1)
    cluster.keeper.is_away = True
    await cluster.renew()
    assert [await cluster.ask(0) for _ in range(11)] == [True] * 10 + [False]


async def test_what_a_router_held_comes_back_when_it_is_gone():
    cluster = Cluster(key(max_concurrent=4))
    for _ in range(4):
        await cluster.routers[0].take(cluster.key, 1)
    await cluster.renew()
    assert not await cluster.ask(1)
    del cluster.routers[0]
    cluster.clock.now_s += 11
    await cluster.renew()
    assert [await cluster.ask(0) for _ in range(4)] == [True] * 4


async def test_open_answers_are_counted_over_all_routers():
    cluster = Cluster(key(max_concurrent=5))
    for router in range(4):
        await cluster.routers[router].take(cluster.key, 1)
    await cluster.renew()
    await cluster.routers[0].take(cluster.key, 1)
    assert not await cluster.ask(1)
    cluster.routers[0].end("a", 2)
    cluster.clock.now_s += 1
    await cluster.renew()
    assert await cluster.ask(1, 2)


async def test_tokens_count_over_all_routers_and_may_be_owed():
    cluster = Cluster(key(tokens_per_minute=600))
    assert await cluster.spend(0, 400)
    await cluster.renew()
    assert not await cluster.spend(1, 1), "a burst is 100 tokens, so 300 are owed"
    cluster.clock.now_s += 29
    assert not await cluster.spend(2, 1)
    cluster.clock.now_s += 2
    assert await cluster.spend(3, 1)


async def test_the_tokens_of_a_day_end_for_all_routers_and_are_back_at_midnight():
    cluster = Cluster(key(tokens_per_day=1000))
    for router in (0, 1, 2, 3):
        assert await cluster.spend(router, 250)
        await cluster.renew()
    await cluster.renew()
    with pytest.raises(RateLimited, match="has used its 1000 tokens of today") as refused:
        await cluster.routers[2].take(cluster.key, 1)
    assert refused.value.retry_after_s == DAY_S / 2
    cluster.clock.now_s += DAY_S / 2
    assert await cluster.spend(2, 1)


async def test_a_new_keeper_learns_from_the_routers_what_was_used_today():
    cluster = Cluster(key(tokens_per_day=1000))
    for router in (0, 1):
        await cluster.spend(router, 300)
        await cluster.renew()
    cluster.keeper.restart(LimitLedger(cluster.clock, cluster.clock))
    await cluster.spend(1, 10)
    await cluster.renew()
    use = (await cluster.keeper.use())["a"]
    assert (use[Limit.DAY_TOKENS].used, use[Limit.DAY_TOKENS].limit) == (610, 1000)
    assert use[Limit.REQUESTS].used == 3


async def test_many_requests_at_once_wait_for_one_renewal_together():
    cluster = Cluster(key(requests_per_minute=600))
    asked = await asyncio.gather(*(cluster.ask(0) for _ in range(50)))
    assert (all(asked), cluster.keeper.num_asked) == (True, 2)


def test_routers_that_report_two_limits_by_turns_give_the_burst_once():
    """As while a table with a higher limit reaches one router after the other."""
    clock = Clock()
    ledger = LimitLedger(clock, clock)
    routers = {"old": Holding(Limit.REQUESTS, 0.0), "new": Holding(Limit.REQUESTS, 0.0)}
    routers["old"].set_limit(60)
    routers["new"].set_limit(600)
    num_passed = 0
    for _ in range(40):
        clock.now_s += STEP_S
        for name, holding in routers.items():
            holding.asked += 500
            sent = holding.report(clock())
            leases = ledger.renew(name, 0, {"a": {Limit.REQUESTS: sent}}).leases
            holding.renew(sent, leases["a"][Limit.REQUESTS], clock())
            num_passed += (num := int(max(0.0, holding.spare)))
            holding.use(num)
    assert num_passed <= Limit.REQUESTS.burst(600) + 600 / 60 * 40 * STEP_S
