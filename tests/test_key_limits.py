"""What a key may take: so many requests a minute, so many at once, and the router's own cap."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.errors import Overloaded, RateLimited
from router.key_limits import KeyLimits
from router.table import ApiKey

MANY = 3_000


@dataclass
class Clock:
    """Time goes on where a test says so."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def key(name: str = "a", **limits: Any) -> ApiKey:
    return ApiKey(name=name, sha256="0" * 64, **limits)


def ask(limits: KeyLimits, by: ApiKey | None, max_requests: int = MANY) -> None:
    """A request that is answered at once."""
    with limits.request(by, max_requests):
        pass


def num_passed(limits: KeyLimits, by: ApiKey, num_asked: int) -> int:
    """How many of so many at once pass."""
    passed = 0
    for _ in range(num_asked):
        try:
            ask(limits, by)
        except RateLimited:
            continue
        passed += 1
    return passed


@pytest.mark.parametrize(("rpm", "burst"), [(1, 1), (6, 1), (60, 10), (600, 100)])
def test_a_burst_of_ten_seconds_worth_passes_and_no_more(rpm: int, burst: int):
    assert num_passed(KeyLimits(Clock()), key(requests_per_minute=rpm), 2 * burst) == burst


def test_who_was_quiet_for_a_while_has_no_larger_burst():
    limits, by = KeyLimits(clock := Clock()), key(requests_per_minute=60)
    ask(limits, by)
    clock.now_s += 50
    assert num_passed(limits, by, 20) == 10


def test_who_asks_too_fast_is_told_when_to_come_back():
    limits, by = KeyLimits(Clock()), key(requests_per_minute=4)
    ask(limits, by)
    with pytest.raises(RateLimited, match="'a' asks more than its 4 requests per minute") as refused:
        ask(limits, by)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 15)


@given(st.integers(1, 10_000), st.integers(0, 2_000), st.floats(0, 1e6))
@example(1, 0, 989.0110279765496)  # a minute later is a hair less than a minute later
def test_whoever_comes_back_when_told_to_passes(rpm: int, num_before: int, start_s: float):
    clock = Clock(start_s)
    limits, by = KeyLimits(clock), key(requests_per_minute=rpm)
    if num_passed(limits, by, num_before) == num_before:
        num_passed(limits, by, MANY)
    with pytest.raises(RateLimited) as refused:
        ask(limits, by)
    retry_after_s = refused.value.retry_after_s
    assert retry_after_s is not None
    assert 1 <= retry_after_s <= 60
    clock.now_s += retry_after_s
    ask(limits, by)


@given(st.integers(1, 600), st.lists(st.tuples(st.floats(0, 90), st.integers(1, 30)), max_size=40))
def test_no_minute_sees_more_than_the_rate_and_one_burst(rpm: int, asks: list[tuple[float, int]]):
    clock = Clock()
    limits, by = KeyLimits(clock), key(requests_per_minute=rpm)
    passed: list[float] = []
    for pause_s, num_asked in asks:
        clock.now_s += pause_s
        passed += [clock.now_s] * num_passed(limits, by, num_asked)
    for began in passed:
        num_in_minute = sum(began <= at < began + 60 for at in passed)
        assert num_in_minute <= rpm + max(1, rpm / 6) + 0.01


def test_keys_do_not_share_their_pace():
    limits = KeyLimits(Clock())
    for name in ("a", "b"):
        assert num_passed(limits, key(name, requests_per_minute=60), 20) == 10


def test_a_key_has_only_so_many_requests_open_at_once():
    limits, by = KeyLimits(Clock()), key(max_concurrent=2)
    with ExitStack() as open_requests:
        for _ in range(2):
            open_requests.enter_context(limits.request(by, MANY))
        with pytest.raises(RateLimited, match="max_concurrent is 2") as refused:
            ask(limits, by)
        assert refused.value.retry_after_s == 1
        ask(limits, key("other", max_concurrent=2))
    ask(limits, by)


def test_the_cap_over_all_counts_those_without_a_key_too():
    limits = KeyLimits(Clock())
    with limits.request(None, 2), limits.request(key(), 2):
        for by in (None, key("b")):
            with pytest.raises(Overloaded, match="2 requests are open") as refused:
                ask(limits, by, max_requests=2)
            assert refused.value.retry_after_s == 1
    ask(limits, None, max_requests=2)
    assert limits.num_open == 0


def test_a_request_that_is_refused_costs_its_key_nothing():
    limits, by = KeyLimits(Clock()), key(requests_per_minute=60, max_concurrent=1)
    with limits.request(by, MANY):
        assert num_passed(limits, by, 50) == 0
        with pytest.raises(Overloaded):
            ask(limits, by, max_requests=1)
    assert num_passed(limits, by, 50) == 9


def test_a_request_that_fails_is_closed_all_the_same():
    limits, by = KeyLimits(Clock()), key(max_concurrent=1)
    with pytest.raises(ZeroDivisionError), limits.request(by, 1):
        raise ZeroDivisionError
    ask(limits, by, max_requests=1)


def test_a_changed_limit_holds_from_the_next_request_on():
    limits = KeyLimits(clock := Clock())
    with limits.request(key(), MANY), limits.request(key(), MANY):
        with pytest.raises(RateLimited):
            ask(limits, key(max_concurrent=2))
        ask(limits, key(max_concurrent=3))
    assert num_passed(limits, key(requests_per_minute=600), 200) == 100
    assert num_passed(limits, key(requests_per_minute=1200), 200) == 100
    assert num_passed(limits, key(requests_per_minute=6), 2) == 0
    clock.now_s += 10
    assert num_passed(limits, key(requests_per_minute=6), 2) == 1
    assert num_passed(limits, key(), 200) == 200


def test_keys_that_ask_no_more_are_forgotten_though_another_is_open_all_along():
    limits = KeyLimits(clock := Clock())
    with limits.request(key("long", requests_per_minute=60), MANY):
        for n in range(100):
            ask(limits, key(f"{n}", requests_per_minute=60, max_concurrent=1))
            ask(limits, key(f"paceless {n}", max_concurrent=1))
        assert limits.num_keys == 101
        clock.now_s += 60
        ask(limits, None)
        assert limits.num_keys == 1
    assert (limits.num_keys, limits.num_open) == (0, 0)
