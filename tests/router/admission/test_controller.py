"""Which calls get a slot, in which order, and which are refused. In virtual time: seconds cost nothing."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.admission.context import AdmissionContext
from router.admission.controller import CAPACITY_POLL_S, Admission
from router.admission.fair_queue import IDLE_QUEUE_TTL_S
from router.errors import Overloaded
from tests.fakes.models import in_virtual_time

MANY = 100_000
LEFT_S = 1e6  # until the deadline of an answer


@dataclass
class Crowd:
    """Clients of an `Admission` whose models have `streams`; records in order what happens to each client."""

    streams: Counter[str] = field(default_factory=lambda: Counter(m=1))
    queue_s: float = 1000.0
    max_waiting: int = MANY
    entered: list[str] = field(default_factory=list)
    refused: dict[str, Overloaded] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    at_once: Counter[str] = field(default_factory=Counter)  # by model, running calls that may have waited
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admission = Admission(lambda model: 2 * self.streams[model])

    async def arrive(
        self, name: str, key: str = "", *, model: str = "m", **options: Any
    ) -> asyncio.Task[None]:
        """A client calls; returns once it waits, has a slot, or is refused."""
        task = asyncio.create_task(self.call(name, key, model, **options))
        self.tasks.append(task)
        await settle()
        return task

    async def call(
        self,
        name: str,
        key: str,
        model: str,
        hold_s: float = 1.0,
        has_output: bool = False,
        queue_s: float = -1.0,
        request: AdmissionContext | None = None,
    ) -> None:
        """One call of a client. Without `request`, it is a request of its own."""
        queue_s, arrived_s = self.queue_s if queue_s < 0 else queue_s, now()
        context = request or AdmissionContext(queue_s, self.max_waiting, key)
        has_slot = False
        try:
            async with self.admission.slot(model, model, context, has_output=has_output, left_s=LEFT_S):
                has_slot = True
                assert has_output or now() - arrived_s <= context.wait_limit_s(model, LEFT_S) + 1e-6
                self.entered.append(name)
                self.at_once[model] += not has_output
                try:
                    await passed(hold_s)
                finally:
                    self.at_once[model] -= not has_output
        except Overloaded as refusal:
            assert not has_slot
            assert now() - arrived_s <= context.wait_limit_s(model, LEFT_S) + 1e-6
            self.refused[name] = refusal
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    async def fill(self, num: int = 2, hold_s: float = 1.0) -> None:
        """Take slots, so that the next call waits. These calls do not wait, so their key does not matter."""
        for n in range(num):
            await self.arrive(f"full {n}", "first", hold_s=hold_s)
        self.entered.clear()

    async def measure(self, hold_s: float) -> None:
        """Let `Admission` measure how long the two slots are held while both are taken."""
        await asyncio.wait([await self.arrive(f"measured {n}", hold_s=hold_s) for n in range(10)])
        self.entered.clear()

    async def all_ended(self) -> None:
        await asyncio.wait(self.tasks)
        for task in self.tasks:
            if not task.cancelled():
                task.result()
        assert (self.admission.num_waiting, self.admission.num_running) == (0, 0)


async def passed(for_s: float) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(for_s, over.set)
    await over.wait()


async def settle() -> None:
    """Let everything happen that takes no time."""
    for _ in range(5):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, None]) -> None:
    in_virtual_time(main)


def test_calls_take_all_slots_and_the_next_one_waits():
    async def main() -> None:
        crowd = Crowd(Counter(m=3, other=1))
        for n in range(7):
            await crowd.arrive(f"{n}")
        await crowd.arrive("elsewhere", model="other")
        assert crowd.entered == ["0", "1", "2", "3", "4", "5", "elsewhere"]
        assert (crowd.admission.num_running, crowd.admission.num_waiting) == (7, 1)
        assert crowd.admission.load()["m"] == {"num_running": 6, "num_waiting": 1, "mean_hold_s": None}
        await crowd.all_ended()
        assert crowd.entered[-1] == "6"

    run(main())


def test_an_answer_with_output_never_waits_but_takes_a_slot():
    async def main() -> None:
        crowd = Crowd()
        for n in range(4):
            await crowd.arrive(f"resumed {n}", has_output=True, hold_s=1 + n)
        await crowd.arrive("new")
        assert crowd.entered == [f"resumed {n}" for n in range(4)]
        await passed(2.9)
        assert "new" not in crowd.entered  # two of the resumed still run
        await passed(0.2)
        assert crowd.entered[-1] == "new"
        await crowd.all_ended()

    run(main())


def test_a_thousand_waiting_calls_of_one_key_delay_another_key_by_one_slot():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill()
        for n in range(1000):
            await crowd.arrive(f"greedy {n}", "greedy")
        await crowd.arrive("modest", "modest")
        await passed(3)
        assert crowd.entered.index("modest") <= 1
        for task in crowd.tasks:
            task.cancel()
        await crowd.all_ended()

    run(main())


keys = st.sampled_from("abcd")


@settings(deadline=None)
@given(st.lists(keys, max_size=40))
def test_keys_take_turns_and_the_calls_of_a_key_are_served_in_order(arrivals: list[str]):
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill()
        nth: Counter[str] = Counter()
        for key in arrivals:
            await crowd.arrive(f"{key}{nth[key]}", key)
            nth[key] += 1
        await crowd.all_ended()
        # Round r serves the r-th call of every key that has one, in the order in which the keys arrived.
        rounds = range(max(nth.values(), default=0))
        assert crowd.entered == [f"{key}{r}" for r in rounds for key in nth if r < nth[key]]

    run(main())


@settings(deadline=None)
@given(st.lists(keys, max_size=30), st.integers(0, 20), keys)
def test_retry_after_counts_exactly_the_calls_that_are_served_before(
    arrivals: list[str], num_served: int, key: str
):
    async def main() -> None:
        crowd = Crowd()
        await crowd.measure(2.0)  # with two slots, one is released every second
        await crowd.fill(1, hold_s=2 * num_served + 1)
        await crowd.fill(1, hold_s=100)
        for n, other in enumerate(arrivals):
            await crowd.arrive(f"{n}", other, hold_s=2.0)
        await passed(2 * num_served)  # some are served, so that it may be the turn of any key
        hold_s = crowd.admission.load()["m"]["mean_hold_s"] or 0.0
        await crowd.arrive("refused", key, queue_s=0.01)
        num_entered = len(crowd.entered)
        await crowd.arrive("waits", key, queue_s=10_000)
        await crowd.all_ended()
        assert crowd.refused.keys() == {"refused"}
        num_before = crowd.entered.index("waits") - num_entered
        estimate_s = (num_before + 1) * hold_s / 2
        assert crowd.refused["refused"].retry_after_s == min(60, math.ceil(estimate_s))

    run(main())


def test_a_call_that_would_wait_too_long_is_refused_at_once_with_retry_after():
    async def main() -> None:
        crowd = Crowd()
        await crowd.measure(4.0)
        crowd.queue_s = 13
        await crowd.fill(hold_s=4)
        began_s = now()
        for n in range(8):  # would wait 2, 4, 6, 8, 10, 12, 14 and 14 s
            await crowd.arrive(f"{n}", hold_s=4)
        assert now() == began_s
        assert crowd.refused.keys() == {"6", "7"}
        assert (crowd.refused["7"].status, crowd.refused["7"].retry_after_s) == (429, 14)
        assert str(crowd.refused["7"]) == "m is busy: the wait would be about 14 s; try again in 14 s"
        await crowd.all_ended()
        assert crowd.entered == ["0", "1", "2", "3", "4", "5"]

    run(main())


def test_calls_that_run_beyond_the_slots_count_into_the_wait():
    async def main() -> None:
        crowd = Crowd()
        await crowd.measure(2.0)
        for n in range(5):
            await crowd.arrive(f"resumed {n}", has_output=True, hold_s=10)
        await crowd.arrive("late", queue_s=3.5)
        assert crowd.refused["late"].retry_after_s == 4
        await crowd.all_ended()

    run(main())


def test_retry_after_has_a_maximum():
    async def main() -> None:
        crowd = Crowd()
        await crowd.measure(900.0)
        await crowd.fill()
        await crowd.arrive("late", queue_s=5)
        assert crowd.refused["late"].retry_after_s == 60
        await crowd.all_ended()

    run(main())


def test_a_call_that_has_waited_too_long_is_refused_though_nothing_was_measured():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=60)
        waiting, began_s = await crowd.arrive("late", queue_s=5), now()
        await waiting
        assert now() - began_s == pytest.approx(5)
        assert crowd.refused["late"].retry_after_s == 1
        assert "no slot was released within 5 s" in str(crowd.refused["late"])
        assert crowd.admission.num_waiting == 0
        await crowd.all_ended()

    run(main())


def test_when_the_queues_are_full_the_key_with_the_most_waiting_loses_its_newest_call():
    async def main() -> None:
        crowd = Crowd(Counter(m=1, other=1), max_waiting=3)
        await crowd.fill()
        for n in range(2):
            await crowd.arrive(f"other {n}", "first", model="other")
        await crowd.arrive("a0", "a")
        await crowd.arrive("a1", "a", model="other")
        await crowd.arrive("b0", "b")
        await crowd.arrive("a2", "a")  # its own key has the most
        assert crowd.refused.keys() == {"a2"}
        await crowd.arrive("b1", "b")  # key a has more; its newest call waits for another model
        assert crowd.refused.keys() == {"a2", "a1"}
        await crowd.arrive("a3", "a")
        assert crowd.refused.keys() == {"a2", "a1", "b1"}
        await crowd.arrive("b2", "b")
        await crowd.arrive("c0", "c")
        await crowd.arrive("c1", "c")  # on a tie the new call is refused
        assert crowd.refused.keys() == {"a2", "a1", "b1", "a3", "b2", "c1"}
        assert crowd.admission.num_waiting == 3
        assert "your API key has the most answers waiting" in str(crowd.refused["a1"])
        assert "3 answers are waiting already" in str(crowd.refused["c1"])
        await crowd.all_ended()

    run(main())


def test_new_capacity_is_used_though_no_slot_is_released():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=600)
        for n in range(3):
            await crowd.arrive(f"{n}", hold_s=600)
        crowd.streams["m"] = 2
        await passed(CAPACITY_POLL_S + 0.01)
        assert crowd.entered == ["0", "1"]
        crowd.streams["m"] = 3
        crowd.admission.admit_waiting()
        assert (crowd.admission.num_waiting, crowd.admission.num_running) == (0, 5)
        await settle()
        assert crowd.entered == ["0", "1", "2"]
        await crowd.all_ended()

    run(main())


def test_a_new_call_does_not_overtake_when_capacity_has_grown():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=10)
        for n in range(3):
            await crowd.arrive(f"{n}")
        crowd.streams["m"] = 2
        await crowd.arrive("new")
        assert crowd.entered == ["0", "1"]
        await crowd.all_ended()

    run(main())


def test_calls_that_wait_for_a_removed_model_get_through_to_its_error():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=1)
        await crowd.arrive("late")
        del crowd.streams["m"]
        await crowd.all_ended()
        assert crowd.entered == ["late"]

    run(main())


def test_a_client_that_leaves_while_waiting_leaves_nothing_behind():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill()
        leaving = await crowd.arrive("leaves", "a")
        await crowd.arrive("stays", "a")
        leaving.cancel()
        await settle()
        assert (crowd.admission.num_waiting, crowd.cancelled) == (1, ["leaves"])
        await crowd.all_ended()
        assert crowd.entered == ["stays"]

    run(main())


def test_a_client_that_leaves_just_when_it_would_be_evicted_makes_room_too():
    async def main() -> None:
        crowd = Crowd(max_waiting=2)
        await crowd.fill()
        await crowd.arrive("a0", "a")
        leaving = await crowd.arrive("a1", "a")
        crowd.tasks.append(asyncio.create_task(crowd.call("b0", "b", "m")))
        # The loop runs the new call before it cancels the one that leaves.
        leaving.cancel()
        await crowd.all_ended()
        assert (crowd.cancelled, crowd.entered, crowd.refused) == (["a1"], ["a0", "b0"], {})

    run(main())


@pytest.mark.parametrize("leaves_first", [True, False])
def test_a_slot_granted_just_as_its_client_leaves_goes_to_the_next_call(leaves_first: bool):
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=600)
        leaving = await crowd.arrive("leaves", hold_s=600)
        for name in ("next", "last"):
            await crowd.arrive(name, hold_s=600)
        crowd.streams["m"] = 2
        # Nothing is awaited in between, so the waiting call sees both in the same iteration of the loop.
        for event in (leaving.cancel, crowd.admission.admit_waiting)[:: 1 if leaves_first else -1]:
            event()
        await settle()
        assert (crowd.entered, crowd.cancelled) == (["next", "last"], ["leaves"])
        assert (crowd.admission.num_running, crowd.admission.num_waiting) == (4, 0)
        await crowd.all_ended()

    run(main())


def test_a_slot_is_released_if_the_block_fails():
    async def main() -> None:
        admission = Admission(lambda _: 1)
        for has_output in (True, False) * 3:
            context = AdmissionContext(queue_s=1, max_waiting=1)
            with pytest.raises(ZeroDivisionError):
                async with admission.slot("m", "m", context, has_output=has_output, left_s=1):
                    raise ZeroDivisionError
        assert admission.num_running == 0

    run(main())


def test_queues_without_calls_are_forgotten():
    async def main() -> None:
        crowd = Crowd()
        for n in range(20):
            await crowd.arrive(f"{n}", model=f"m{n}", has_output=True, hold_s=1)
        await crowd.arrive("long", model="long", hold_s=IDLE_QUEUE_TTL_S + 10)
        await passed(IDLE_QUEUE_TTL_S + 2)
        await crowd.arrive("new", model="new")
        assert crowd.admission.load().keys() == {"long", "new"}
        await crowd.all_ended()

    run(main())


instants = st.integers(0, 12).map(float)
visits = st.fixed_dictionaries(
    {
        "at_s": instants,
        "key": keys,
        "model": st.sampled_from("mn"),
        "hold_s": st.integers(0, 4).map(float),
        "has_output": st.sampled_from([False, False, False, True]),
        "queue_s": st.integers(1, 6).map(float),
        "leaves_s": st.none() | instants,
        "request": st.none() | st.integers(0, 1),
    }
)
changes = st.lists(st.tuples(instants, st.sampled_from("mn"), st.integers(0, 3)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(visits, max_size=60), changes, st.integers(1, 10))
def test_every_client_is_served_or_refused_and_no_count_stays(
    all_visits: list[dict[str, Any]], all_changes: list[tuple[float, str, int]], max_waiting: int
):
    """Many events happen at the same instant, in any order."""

    async def main() -> None:
        crowd = Crowd(Counter(m=1, n=2), max_waiting=max_waiting)
        admission, loop, names = crowd.admission, asyncio.get_running_loop(), count()
        most = Counter(crowd.streams)
        requests: dict[tuple[str, int], AdmissionContext] = {}

        def change(model: str, num_streams: int) -> None:
            crowd.streams[model] = num_streams
            most[model] = max(most[model], num_streams)
            admission.admit_waiting()

        def check() -> None:
            assert admission.num_waiting <= max_waiting
            for model, load in admission.load().items():
                num_slots = max(1, 2 * crowd.streams[model])
                running, waiting = load["num_running"], load["num_waiting"]
                assert running is not None
                assert crowd.at_once[model] <= 2 * max(1, most[model])
                assert not waiting or running >= num_slots, "a slot is free and a call waits"

        async def visit(at_s: float, leaves_s: float | None, request: int | None, **options: Any) -> None:
            await passed(at_s)
            name, key = f"{next(names)}", options["key"]
            if request is not None:
                options["request"] = requests.setdefault(
                    (key, request), AdmissionContext(options["queue_s"], max_waiting, key)
                )
            task = asyncio.create_task(crowd.call(name, **options))
            crowd.tasks.append(task)
            if leaves_s is not None:
                loop.call_later(leaves_s, task.cancel)

        for at_s, model, num_streams in all_changes:
            loop.call_later(at_s, change, model, num_streams)
        arrivals = [asyncio.create_task(visit(**options)) for options in all_visits]
        for _ in range(120):  # the last one arrives at 12 s, waits for 6 s and holds its slot for 4 s
            check()
            await passed(0.25)
        await asyncio.gather(*arrivals)
        if crowd.tasks:
            await crowd.all_ended()
        for name, task in enumerate(crowd.tasks):
            assert task.cancelled() or (f"{name}" in crowd.entered) != (f"{name}" in crowd.refused)

    run(main())


def test_a_key_with_fewer_waiting_calls_may_wait_when_a_greedy_key_is_refused():
    """If both were refused, every slot would go to the calls of the greedy key that wait already."""

    async def main() -> None:
        crowd = Crowd(queue_s=10.0)
        await crowd.measure(2.0)
        await crowd.fill(hold_s=2.0)
        for n in range(11):
            await crowd.arrive(f"greedy {n}", "greedy", hold_s=2.0)
        assert set(crowd.refused) == {"greedy 10"}  # the eleventh would wait 11 s
        for n in range(3):
            await crowd.arrive(f"modest {n}", "modest", hold_s=2.0)
        assert set(crowd.refused) == {"greedy 10"}
        await crowd.all_ended()

    run(main())


def test_requests_of_a_key_take_turns_so_many_choices_delay_another_request_by_one_slot():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill()
        large = AdmissionContext(crowd.queue_s, MANY)
        for n in range(128):
            await crowd.arrive(f"choice {n}", request=large)
        await crowd.arrive("small")
        await crowd.all_ended()
        assert crowd.entered.index("small") <= 1
        assert not crowd.refused

    run(main())


def test_of_the_requests_of_a_key_those_with_the_lowest_priority_are_served_first():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(1, hold_s=1)
        await crowd.fill(1, hold_s=1000)
        for n, (key, priority) in enumerate([("a", 0), ("a", 5), ("a", -1), ("a", 0), ("b", 9), ("a", -1)]):
            request = AdmissionContext(LEFT_S, MANY, key, priority)
            await crowd.arrive(f"{key}{n}", key, request=request)
        await crowd.all_ended()
        # Keys take turns, whatever the priority of their requests.
        assert crowd.entered == ["a2", "b4", "a5", "a0", "a3", "a1"]

    run(main())


def test_a_burst_at_a_model_whose_replicas_have_accepted_nothing_yet_is_not_refused():
    """The slots that there can be count, not the few that there are as the burst begins."""

    async def main() -> None:
        crowd = Crowd()
        crowd.admission = Admission(lambda _: 1, lambda _: 64)
        await crowd.measure(4.0)
        crowd.queue_s = 5.0
        for n in range(60):
            await crowd.arrive(f"{n}", hold_s=0.05)
        assert crowd.refused == {}
        await crowd.all_ended()
        assert len(crowd.entered) == 60

    run(main())


def test_keys_with_a_lower_priority_go_first_and_keys_of_the_same_take_turns():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(1, hold_s=1)
        await crowd.fill(1, hold_s=1000)
        for n, (key, key_priority) in enumerate(
            [("a", 0), ("a", 0), ("b", 0), ("c", 7), ("d", -1), ("d", -1)]
        ):
            await crowd.arrive(f"{key}{n}", request=AdmissionContext(LEFT_S, MANY, key, 0, key_priority))
        await crowd.all_ended()
        assert crowd.entered == ["d4", "d5", "a0", "b2", "a1", "c3"]

    run(main())


def test_when_the_queues_are_full_calls_of_keys_that_are_served_last_give_way():
    async def main() -> None:
        crowd = Crowd(max_waiting=3)
        await crowd.fill()

        async def arrive(name: str, key_priority: int) -> None:
            await crowd.arrive(name, request=AdmissionContext(LEFT_S, 3, name[0], 0, key_priority))

        for name in ("a0", "a1", "b0"):
            await arrive(name, 1)
        await arrive("c0", 2)
        assert list(crowd.refused) == ["c0"]
        await arrive("d0", 0)
        assert list(crowd.refused) == ["c0", "a1"]
        assert "those of other API keys go first" in str(crowd.refused["a1"])
        await arrive("d1", 0)
        await arrive("d2", 0)
        assert list(crowd.refused) == ["c0", "a1", "a0", "b0"]
        await arrive("d3", 0)
        await arrive("a2", 1)
        assert list(crowd.refused) == ["c0", "a1", "a0", "b0", "d3", "a2"]
        await crowd.all_ended()

    run(main())


requests = st.tuples(keys, st.integers(0, 2), st.integers(0, 1))
KEY_PRIORITIES = {"a": 0, "b": 0, "c": 1, "d": -1}


def context_of(request: tuple[str, int, int]) -> AdmissionContext:
    key, _, priority = request
    return AdmissionContext(LEFT_S, MANY, key, priority, KEY_PRIORITIES[key])


@settings(deadline=None)
@given(st.lists(requests, max_size=40))
def test_keys_of_a_priority_take_turns_and_within_a_key_requests_take_turns(
    arrivals: list[tuple[str, int, int]],
):
    """Against a model of the order: nested queues, rotated after every turn."""

    async def main() -> None:
        crowd = Crowd(queue_s=LEFT_S)
        await crowd.fill()
        contexts = {each: context_of(each) for each in arrivals}
        waiting: dict[str, dict[tuple[int, int], list[str]]] = {}
        for n, (key, request, priority) in enumerate(arrivals):
            waiting.setdefault(key, {}).setdefault((request, priority), []).append(f"{n}")
            await crowd.arrive(f"{n}", key, request=contexts[key, request, priority])
        await crowd.all_ended()
        expected = []
        while waiting:
            key = min(waiting, key=KEY_PRIORITIES.__getitem__)  # the first of them
            by_request = waiting.pop(key)
            each = min(by_request, key=lambda each: each[1])
            calls = by_request.pop(each)
            expected.append(calls.pop(0))
            if calls:
                by_request[each] = calls
            if by_request:
                waiting[key] = by_request
        assert crowd.entered == expected

    run(main())


@settings(deadline=None)
@given(st.lists(requests, max_size=40), st.integers(0, 20), requests)
def test_the_estimate_counts_exactly_the_calls_before_one_of_the_same_request(
    arrivals: list[tuple[str, int, int]], num_served: int, new: tuple[str, int, int]
):
    async def main() -> None:
        crowd = Crowd(queue_s=LEFT_S)
        await crowd.fill(1, hold_s=num_served + 0.5)
        await crowd.fill(1, hold_s=LEFT_S / 2)
        contexts = {each: context_of(each) for each in [*arrivals, new]}
        for n, request in enumerate(arrivals):
            await crowd.arrive(f"{n}", request[0], request=contexts[request])
        await passed(num_served)
        num_before = crowd.admission._queues["m"].waiting.num_before(contexts[new])
        num_entered = len(crowd.entered)
        await crowd.arrive("new", request=contexts[new])
        await crowd.all_ended()
        assert crowd.entered.index("new") - num_entered == num_before

    run(main())


def test_when_the_queues_are_full_the_request_with_the_most_choices_loses_its_newest():
    async def main() -> None:
        crowd = Crowd(max_waiting=3)
        await crowd.fill()
        large = AdmissionContext(crowd.queue_s, 3)
        for n in range(3):
            await crowd.arrive(f"choice {n}", request=large)
        await crowd.arrive("small 0")
        assert crowd.refused.keys() == {"choice 2"}
        await crowd.arrive("small 1")
        assert crowd.refused.keys() == {"choice 2", "choice 1"}
        await crowd.arrive("small 2")  # each request has one call waiting
        assert crowd.refused.keys() == {"choice 2", "choice 1", "small 2"}
        assert "this request has the most answers waiting" in str(crowd.refused["choice 1"])
        assert "3 answers are waiting already" in str(crowd.refused["small 2"])
        await crowd.all_ended()

    run(main())
