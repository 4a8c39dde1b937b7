"""The limits of API keys on requests per minute and open answers, and the router's own limit."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.api.key_limits import KeyLimits
from router.errors import InvalidRequest, Overloaded, RateLimited
from router.table import ApiKey

MANY = 3_000


@dataclass
class Clock:
    """Time passes only when a test says so."""

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
    """How many of `num_asked` simultaneous requests are accepted."""
    passed = 0
    for _ in range(num_asked):
        try:
            ask(limits, by)
        except RateLimited:
            continue
        passed += 1
    return passed


@pytest.mark.parametrize(("rpm", "burst"), [(1, 1), (6, 1), (60, 10), (600, 100)])
def test_a_burst_worth_ten_seconds_is_accepted_and_no_more(rpm: int, burst: int):
    assert num_passed(KeyLimits(Clock()), key(requests_per_minute=rpm), 2 * burst) == burst


def test_an_idle_key_has_no_larger_burst():
    limits, by = KeyLimits(clock := Clock()), key(requests_per_minute=60)
    ask(limits, by)
    clock.now_s += 50
    assert num_passed(limits, by, 20) == 10


def test_a_request_over_the_rate_is_told_when_to_retry():
    limits, by = KeyLimits(Clock()), key(requests_per_minute=4)
    ask(limits, by)
    with pytest.raises(RateLimited, match="'a' asks for more than its 4 requests per minute") as refused:
        ask(limits, by)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 15)


@given(st.integers(1, 10_000), st.integers(0, 2_000), st.floats(0, 1e6))
@example(1, 0, 989.0110279765496)  # where adding 60 s rounds to less than 60 s
def test_a_retry_after_the_given_time_is_accepted(rpm: int, num_before: int, start_s: float):
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
def test_no_minute_has_more_requests_than_the_rate_and_one_burst(rpm: int, asks: list[tuple[float, int]]):
    clock = Clock()
    limits, by = KeyLimits(clock), key(requests_per_minute=rpm)
    passed: list[float] = []
    for pause_s, num_asked in asks:
        clock.now_s += pause_s
        passed += [clock.now_s] * num_passed(limits, by, num_asked)
    for began in passed:
        num_in_minute = sum(began <= at < began + 60 for at in passed)
        assert num_in_minute <= rpm + max(1, rpm / 6) + 0.01


def test_each_key_has_its_own_rate():
    limits = KeyLimits(Clock())
    for name in ("a", "b"):
        assert num_passed(limits, key(name, requests_per_minute=60), 20) == 10


def test_a_key_has_at_most_max_concurrent_requests_open():
    limits, by = KeyLimits(Clock()), key(max_concurrent=2)
    with ExitStack() as open_requests:
        for _ in range(2):
            open_requests.enter_context(limits.request(by, MANY))
        with pytest.raises(RateLimited, match="max_concurrent is 2") as refused:
            ask(limits, by)
        assert refused.value.retry_after_s == 1
        ask(limits, key("other", max_concurrent=2))
    ask(limits, by)


def test_max_requests_counts_requests_without_a_key_too():
    limits = KeyLimits(Clock())
    with limits.request(None, 2), limits.request(key(), 2):
        for by in (None, key("b")):
            with pytest.raises(Overloaded, match="has 2 requests open") as refused:
                ask(limits, by, max_requests=2)
            assert refused.value.retry_after_s == 1
    ask(limits, None, max_requests=2)
    assert limits.num_open == 0


def test_a_refused_request_costs_its_key_nothing():
    limits, by = KeyLimits(Clock()), key(requests_per_minute=60, max_concurrent=1)
    with limits.request(by, MANY):
        assert num_passed(limits, by, 50) == 0
        with pytest.raises(Overloaded):
            ask(limits, by, max_requests=1)
    assert num_passed(limits, by, 50) == 9


def test_a_failed_request_is_not_open_any_more():
    limits, by = KeyLimits(Clock()), key(max_concurrent=1)
    with pytest.raises(ZeroDivisionError), limits.request(by, 1):
        raise ZeroDivisionError
    ask(limits, by, max_requests=1)


def test_a_changed_limit_applies_to_the_next_request():
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


def test_idle_keys_are_forgotten_while_another_has_an_open_request():
    limits = KeyLimits(clock := Clock())
    with limits.request(key("long", requests_per_minute=60), MANY):
        for n in range(100):
            ask(limits, key(f"{n}", requests_per_minute=60, max_concurrent=1))
            ask(limits, key(f"unlimited {n}", max_concurrent=1))
        assert len(limits._buckets) == 101
        clock.now_s += 60
        ask(limits, None)
        assert limits._buckets == {}
        assert limits._open_answers.keys() == {"long"}
    assert (limits._open_answers, limits.num_open) == ({}, 0)


def test_every_choice_counts_as_an_open_answer():
    limits, by = KeyLimits(Clock()), key(max_concurrent=4)
    with limits.request(by, MANY) as first:
        first.count_choices(3, "n")
        message = "'a' has 3 answers open and this request asks for 2 more"
        with limits.request(by, MANY) as second, pytest.raises(RateLimited, match=message):
            second.count_choices(2, "n")
        ask(limits, by)
    with limits.request(by, MANY) as third:
        third.count_choices(4, "n")
        with pytest.raises(RateLimited, match="max_concurrent is 4"):
            ask(limits, by)
    assert (limits._open_answers, limits.num_open) == ({}, 0)


def test_every_choice_counts_into_the_rate():
    limits, by = KeyLimits(clock := Clock()), key(requests_per_minute=60)
    with limits.request(by, MANY) as request:
        request.count_choices(8, "n")
    assert num_passed(limits, by, 20) == 2
    clock.now_s += 3
    with limits.request(by, MANY) as request, pytest.raises(RateLimited) as refused:
        request.count_choices(5, "n")
    assert refused.value.retry_after_s == 2
    assert num_passed(limits, by, 20) == 3, "the refused request cost nothing"


def test_more_choices_than_a_burst_pass_when_the_key_was_idle_and_are_paid_for_afterwards():
    limits, by = KeyLimits(clock := Clock()), key(requests_per_minute=60)
    with limits.request(by, MANY) as request:
        request.count_choices(60, "prompt")
    with pytest.raises(RateLimited) as refused:
        ask(limits, by)
    assert refused.value.retry_after_s == 51
    clock.now_s += 51
    assert num_passed(limits, by, 20) == 1


@pytest.mark.parametrize("limit", ["max_concurrent", "requests_per_minute"])
def test_a_request_with_more_choices_than_its_key_may_ever_have_is_a_bad_request(limit: str):
    limits, by = KeyLimits(Clock()), key().model_copy(update={limit: 4})
    with limits.request(by, MANY) as request, pytest.raises(InvalidRequest) as refused:
        request.count_choices(5, "n")
    assert refused.value.param == "n"
    assert str(refused.value).startswith(f"n: the request asks for 5 choices, but {limit} of key 'a' is 4")


def test_choices_without_a_key_have_no_limit():
    limits = KeyLimits(Clock())
    with limits.request(None, MANY) as request:
        request.count_choices(128, "n")
