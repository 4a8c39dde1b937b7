"""The limits of API keys on requests per minute and open answers, and the router's own limit."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.admission.holding import IDLE_S
from router.admission.lease import Limit
from router.admission.leases import Leases, OwnKeeper
from router.admission.limit_ledger import LimitLedger
from router.api.key_limits import KeyLimits
from router.api_key import ApiKey
from router.errors import InvalidRequest, Overloaded, RateLimited

MANY = 3_000


@dataclass
class Clock:
    """Time passes only when a test says so."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def key(name: str = "a", **limits: Any) -> ApiKey:
    return ApiKey(name=name, sha256="0" * 64, **limits)


def key_limits(clock: Clock) -> KeyLimits:
    """Those of the only router of a cluster."""
    return KeyLimits(Leases(OwnKeeper(LimitLedger(clock, clock)), clock))


async def ask(limits: KeyLimits, by: ApiKey | None, max_requests: int = MANY) -> None:
    """A request that is answered at once."""
    async with limits.request(by, max_requests):
        pass


async def num_passed(limits: KeyLimits, by: ApiKey, num_asked: int) -> int:
    """How many of `num_asked` simultaneous requests are accepted."""
    passed = 0
    for _ in range(num_asked):
        try:
            await ask(limits, by)
        except RateLimited:
            continue
        passed += 1
    return passed


@pytest.mark.parametrize(("rpm", "burst"), [(1, 1), (6, 1), (60, 10), (600, 100)])
async def test_a_burst_worth_ten_seconds_is_accepted_and_no_more(rpm: int, burst: int):
    assert await num_passed(key_limits(Clock()), key(requests_per_minute=rpm), 2 * burst) == burst


async def test_an_idle_key_has_no_larger_burst():
    limits, by = key_limits(clock := Clock()), key(requests_per_minute=60)
    await ask(limits, by)
    clock.now_s += 50
    assert await num_passed(limits, by, 20) == 10


async def test_a_request_over_the_rate_is_told_when_to_retry():
    limits, by = key_limits(Clock()), key(requests_per_minute=4)
    await ask(limits, by)
    with pytest.raises(RateLimited, match="'a' asks for more than its 4 requests per minute") as refused:
        await ask(limits, by)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 15)


@given(st.integers(1, 2_000), st.integers(0, 300), st.floats(0, 1e6))
@example(1, 0, 989.0110279765496)  # where adding 60 s rounds to less than 60 s
async def test_a_retry_after_the_given_time_is_accepted(rpm: int, num_before: int, start_s: float):
    clock = Clock(start_s)
    limits, by = key_limits(clock), key(requests_per_minute=rpm)
    await num_passed(limits, by, num_before)
    await num_passed(limits, by, rpm // 6 + 1)
    with pytest.raises(RateLimited) as refused:
        await ask(limits, by)
    retry_after_s = refused.value.retry_after_s
    assert retry_after_s is not None
    assert 1 <= retry_after_s <= 60
    clock.now_s += retry_after_s
    await ask(limits, by)


@given(st.integers(1, 600), st.lists(st.tuples(st.floats(0, 90), st.integers(1, 30)), max_size=40))
async def test_no_minute_has_more_requests_than_the_rate_and_one_burst(
    rpm: int, asks: list[tuple[float, int]]
):
    clock = Clock()
    limits, by = key_limits(clock), key(requests_per_minute=rpm)
    passed: list[float] = []
    for pause_s, num_asked in asks:
        clock.now_s += pause_s
        passed += [clock.now_s] * await num_passed(limits, by, num_asked)
    for began in passed:
        num_in_minute = sum(began <= at < began + 60 for at in passed)
        assert num_in_minute <= rpm + max(1, rpm / 6) + 0.01


async def test_each_key_has_its_own_rate():
    limits = key_limits(Clock())
    for name in ("a", "b"):
        assert await num_passed(limits, key(name, requests_per_minute=60), 20) == 10


async def test_a_key_has_at_most_max_concurrent_requests_open():
    limits, by = key_limits(Clock()), key(max_concurrent=2)
    async with AsyncExitStack() as open_requests:
        for _ in range(2):
            await open_requests.enter_async_context(limits.request(by, MANY))
        with pytest.raises(RateLimited, match="max_concurrent of 2") as refused:
            await ask(limits, by)
        assert refused.value.retry_after_s == 1
        await ask(limits, key("other", max_concurrent=2))
    await ask(limits, by)


async def test_max_requests_counts_requests_without_a_key_too():
    limits = key_limits(Clock())
    async with limits.request(None, 2), limits.request(key(), 2):
        for by in (None, key("b")):
            with pytest.raises(Overloaded, match="has 2 requests open") as refused:
                await ask(limits, by, max_requests=2)
            assert refused.value.retry_after_s == 1
    await ask(limits, None, max_requests=2)
    assert limits.num_open == 0


async def test_a_refused_request_costs_its_key_nothing():
    limits, by = key_limits(Clock()), key(requests_per_minute=60, max_concurrent=1)
    async with limits.request(by, MANY):
        assert await num_passed(limits, by, 50) == 0
        with pytest.raises(Overloaded):
            await ask(limits, by, max_requests=1)
    assert await num_passed(limits, by, 50) == 9


async def test_a_failed_request_is_not_open_any_more():
    limits, by = key_limits(Clock()), key(max_concurrent=1)
    with pytest.raises(ZeroDivisionError):
        async with limits.request(by, 1):
            raise ZeroDivisionError
    await ask(limits, by, max_requests=1)


async def test_a_changed_limit_applies_to_the_next_request():
    limits = key_limits(clock := Clock())
    async with limits.request(key(), MANY), limits.request(key(), MANY):
        with pytest.raises(RateLimited):
            await ask(limits, key(max_concurrent=2))
        await ask(limits, key(max_concurrent=3))
    assert await num_passed(limits, key(requests_per_minute=600), 200) == 100
    assert await num_passed(limits, key(requests_per_minute=1200), 200) == 100
    assert await num_passed(limits, key(requests_per_minute=6), 2) == 0
    clock.now_s += 10
    assert await num_passed(limits, key(requests_per_minute=6), 2) == 1
    assert await num_passed(limits, key(), 200) == 200


async def test_idle_keys_are_forgotten_while_another_has_an_open_request():
    limits = key_limits(clock := Clock())
    async with limits.request(key("long", requests_per_minute=60), MANY):
        for n in range(100):
            await ask(limits, key(f"{n}", requests_per_minute=60, max_concurrent=1))
            await ask(limits, key(f"unlimited {n}", max_concurrent=1))
        assert len(limits.leases._by_key) == 201
        for _ in range(4):
            await limits.leases.renew_all()
            clock.now_s += 2 * IDLE_S
        assert limits.leases._by_key.keys() == {"long"}
    assert limits.num_open == 0


async def test_every_choice_counts_as_an_open_answer():
    limits, by = key_limits(Clock()), key(max_concurrent=4)
    async with limits.request(by, MANY) as first:
        await first.count_choices(3, "n")
        message = "'a' has as many answers open as its max_concurrent of 4 permits"
        async with limits.request(by, MANY) as second:
            with pytest.raises(RateLimited, match=message):
                await second.count_choices(2, "n")
        await ask(limits, by)
    async with limits.request(by, MANY) as third:
        await third.count_choices(4, "n")
        with pytest.raises(RateLimited, match="max_concurrent of 4"):
            await ask(limits, by)
    assert (limits.leases.holdings(by)[Limit.OPEN].used, limits.num_open) == (0, 0)


async def test_every_choice_counts_into_the_rate():
    limits, by = key_limits(clock := Clock()), key(requests_per_minute=60)
    async with limits.request(by, MANY) as request:
        await request.count_choices(8, "n")
    assert await num_passed(limits, by, 20) == 2
    clock.now_s += 3
    async with limits.request(by, MANY) as request:
        with pytest.raises(RateLimited) as refused:
            await request.count_choices(5, "n")
    assert refused.value.retry_after_s == 2
    assert await num_passed(limits, by, 20) == 3, "the refused request cost nothing"


async def test_more_choices_than_a_burst_pass_when_the_key_was_idle_and_are_paid_for_afterwards():
    limits, by = key_limits(clock := Clock()), key(requests_per_minute=60)
    async with limits.request(by, MANY) as request:
        await request.count_choices(60, "prompt")
    with pytest.raises(RateLimited) as refused:
        await ask(limits, by)
    assert refused.value.retry_after_s == 51
    clock.now_s += 51
    assert await num_passed(limits, by, 20) == 1


@pytest.mark.parametrize("limit", ["max_concurrent", "requests_per_minute"])
async def test_a_request_with_more_choices_than_its_key_may_ever_have_is_a_bad_request(limit: str):
    limits, by = key_limits(Clock()), key().model_copy(update={limit: 4})
    async with limits.request(by, MANY) as request:
        with pytest.raises(InvalidRequest) as refused:
            await request.count_choices(5, "n")
    assert refused.value.param == "n"
    assert str(refused.value).startswith(f"n: the request asks for 5 choices, but {limit} of key 'a' is 4")


async def test_choices_without_a_key_have_no_limit():
    limits = key_limits(Clock())
    async with limits.request(None, MANY) as request:
        await request.count_choices(128, "n")
