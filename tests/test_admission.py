"""Who may begin an answer, in which order, and who is refused. All in virtual time: seconds cost nothing."""

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

from router.admission import LOOK_PERIOD_S, Admission
from router.errors import Overloaded
from router.line import FORGET_S
from tests.fakes import in_virtual_time

MANY = 100_000


@dataclass
class Crowd:
    """Clients of an `Admission` whose models have `streams`; what becomes of each is noted down in order."""

    streams: Counter[str] = field(default_factory=lambda: Counter(m=1))
    queue_s: float = 1000.0
    max_waiting: int = MANY
    entered: list[str] = field(default_factory=list)
    refused: dict[str, Overloaded] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    at_once: Counter[str] = field(default_factory=Counter)  # by model, those inside that waited for it
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admission = Admission(lambda model: 2 * self.streams[model])

    async def come(self, name: str, key: str = "", *, model: str = "m", **how: Any) -> asyncio.Task[None]:
        """One more client, once it waits, is in, or is refused."""
        task = asyncio.create_task(self.visit(name, key, model, **how))
        self.tasks.append(task)
        await settle()
        return task

    async def visit(
        self, name: str, key: str, model: str, hold_s: float = 1.0, begun: bool = False, queue_s: float = -1.0
    ) -> None:
        queue_s, came_s = self.queue_s if queue_s < 0 else queue_s, now()
        slot = self.admission.slot(model, key, begun=begun, queue_s=queue_s, max_waiting=self.max_waiting)
        inside = False
        try:
            async with slot:
                inside = True
                assert begun or now() - came_s <= queue_s + 1e-6
                self.entered.append(name)
                self.at_once[model] += not begun
                try:
                    await passed(hold_s)
                finally:
                    self.at_once[model] -= not begun
        except Overloaded as refusal:
            assert not inside
            assert now() - came_s <= queue_s + 1e-6
            self.refused[name] = refusal
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    async def fill(self, num: int = 2, hold_s: float = 1.0) -> None:
        """Take slots, so that whoever comes next waits; the key counts nowhere, since it never waits."""
        for n in range(num):
            await self.come(f"full {n}", "first", hold_s=hold_s)
        self.entered.clear()

    async def measured(self, hold_s: float) -> None:
        """Let it be known how long the two slots are held while both are taken."""
        await asyncio.wait([await self.come(f"measured {n}", hold_s=hold_s) for n in range(10)])
        self.entered.clear()

    async def all_gone(self) -> None:
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
    """Let everything happen that needs no time to pass."""
    for _ in range(5):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, None]) -> None:
    in_virtual_time(main)


def test_two_answers_per_stream_begin_at_once_and_the_next_waits():
    async def main() -> None:
        crowd = Crowd(Counter(m=3, other=1))
        for n in range(7):
            await crowd.come(f"{n}")
        await crowd.come("elsewhere", model="other")
        assert crowd.entered == ["0", "1", "2", "3", "4", "5", "elsewhere"]
        assert (crowd.admission.num_running, crowd.admission.num_waiting) == (7, 1)
        assert crowd.admission.load()["m"] == {"num_running": 6, "num_waiting": 1, "mean_hold_s": None}
        await crowd.all_gone()
        assert crowd.entered[-1] == "6"

    run(main())


def test_an_answer_that_has_begun_never_waits_but_takes_a_slot():
    async def main() -> None:
        crowd = Crowd()
        for n in range(4):
            await crowd.come(f"begun {n}", begun=True, hold_s=1 + n)
        await crowd.come("new")
        assert crowd.entered == [f"begun {n}" for n in range(4)]
        await passed(2.9)
        assert "new" not in crowd.entered  # two of them still run
        await passed(0.2)
        assert crowd.entered[-1] == "new"
        await crowd.all_gone()

    run(main())


def test_a_thousand_waiting_answers_of_one_key_keep_another_key_back_for_one_turn():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill()
        for n in range(1000):
            await crowd.come(f"greedy {n}", "greedy")
        await crowd.come("modest", "modest")
        await passed(3)
        assert crowd.entered.index("modest") <= 1
        for task in crowd.tasks:
            task.cancel()
        await crowd.all_gone()

    run(main())


keys = st.sampled_from("abcd")


@settings(deadline=None)
@given(st.lists(keys, max_size=40))
def test_keys_take_turns_and_within_a_key_the_first_comes_first(came: list[str]):
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill()
        nth: Counter[str] = Counter()
        for key in came:
            await crowd.come(f"{key}{nth[key]}", key)
            nth[key] += 1
        await crowd.all_gone()
        # In round r the r-th of every key that has so many; in each round the keys as they came.
        rounds = range(max(nth.values(), default=0))
        assert crowd.entered == [f"{key}{r}" for r in rounds for key in nth if r < nth[key]]

    run(main())


@settings(deadline=None)
@given(st.lists(keys, max_size=30), st.integers(0, 20), keys)
def test_retry_after_counts_exactly_those_whose_turn_is_before(came: list[str], num_served: int, key: str):
    async def main() -> None:
        crowd = Crowd()
        await crowd.measured(2.0)  # with two slots, one falls free every second
        await crowd.fill(1, hold_s=2 * num_served + 1)
        await crowd.fill(1, hold_s=100)
        for n, other in enumerate(came):
            await crowd.come(f"{n}", other, hold_s=2.0)
        await passed(2 * num_served)  # some get in, so that it may be anybody's turn
        line = crowd.admission._lines["m"]
        hold_s, measured_s = line.pace.hold_s(2) or 0.0, line.pace.measured_hold_s or 0.0
        now_s, starts_s = now(), [*line.began_s.values(), math.inf]
        await crowd.come("refused", key, queue_s=0.01)
        num_entered = len(crowd.entered)
        await crowd.come("waits", key, queue_s=10_000)
        await crowd.all_gone()
        assert crowd.refused.keys() == {"refused"}
        num_before = crowd.entered.index("waits") - num_entered
        left_s = starts_s[num_before] + measured_s - now_s if num_before < 2 else 0.0
        estimate_s = max((num_before + 1) * hold_s / 2, left_s)
        assert crowd.refused["refused"].retry_after_s == min(60, math.ceil(estimate_s))

    run(main())


def test_who_would_wait_too_long_is_refused_at_once_and_told_when_to_come_back():
    async def main() -> None:
        crowd = Crowd()
        await crowd.measured(4.0)
        crowd.queue_s = 10
        await crowd.fill(hold_s=4)
        began_s = now()
        for n in range(4):  # would wait 2, 4, 6 and 6 s
            await crowd.come(f"{n}", hold_s=4)
        assert now() == began_s
        assert crowd.refused.keys() == {"2", "3"}
        assert (crowd.refused["3"].status, crowd.refused["3"].retry_after_s) == (429, 6)
        assert str(crowd.refused["3"]) == "m is busy: the wait would be about 6 s; try again in 6 s"
        await crowd.all_gone()
        assert crowd.entered == ["0", "1"]

    run(main())


def test_what_runs_beyond_the_slots_counts_into_the_wait():
    async def main() -> None:
        crowd = Crowd()
        await crowd.measured(2.0)
        for n in range(5):
            await crowd.come(f"begun {n}", begun=True, hold_s=10)
        await crowd.come("late", queue_s=3.5)
        assert crowd.refused["late"].retry_after_s == 4
        await crowd.all_gone()

    run(main())


def test_retry_after_has_an_end():
    async def main() -> None:
        crowd = Crowd()
        await crowd.measured(900.0)
        await crowd.fill()
        await crowd.come("late", queue_s=5)
        assert crowd.refused["late"].retry_after_s == 60
        await crowd.all_gone()

    run(main())


def test_who_has_waited_long_enough_is_refused_even_if_nothing_was_known():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=60)
        waiting, began_s = await crowd.come("late", queue_s=5), now()
        await waiting
        assert now() - began_s == pytest.approx(5)
        assert crowd.refused["late"].retry_after_s == 1
        assert "no slot fell free within 5 s" in str(crowd.refused["late"])
        assert crowd.admission.num_waiting == 0
        await crowd.all_gone()

    run(main())


def test_when_the_line_is_full_the_greediest_key_gives_way_with_its_newest():
    async def main() -> None:
        crowd = Crowd(Counter(m=1, other=1), max_waiting=3)
        await crowd.fill()
        for n in range(2):
            await crowd.come(f"other {n}", "first", model="other")
        await crowd.come("a0", "a")
        await crowd.come("a1", "a", model="other")
        await crowd.come("b0", "b")
        await crowd.come("a2", "a")  # the greediest itself
        assert crowd.refused.keys() == {"a2"}
        await crowd.come("b1", "b")  # a is greedier; its newest waits for another model
        assert crowd.refused.keys() == {"a2", "a1"}
        await crowd.come("a3", "a")
        assert crowd.refused.keys() == {"a2", "a1", "b1"}
        await crowd.come("b2", "b")
        await crowd.come("c0", "c")
        await crowd.come("c1", "c")  # a tie counts as one's own
        assert crowd.refused.keys() == {"a2", "a1", "b1", "a3", "b2", "c1"}
        assert crowd.admission.num_waiting == 3
        assert "others have fewer answers waiting" in str(crowd.refused["a1"])
        assert "3 answers wait already" in str(crowd.refused["c1"])
        await crowd.all_gone()

    run(main())


def test_capacity_that_grows_is_noticed_though_no_slot_falls_free():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=600)
        for n in range(3):
            await crowd.come(f"{n}", hold_s=600)
        crowd.streams["m"] = 2
        await passed(LOOK_PERIOD_S + 0.01)
        assert crowd.entered == ["0", "1"]
        crowd.streams["m"] = 3
        crowd.admission.look()
        assert (crowd.admission.num_waiting, crowd.admission.num_running) == (0, 5)
        await settle()
        assert crowd.entered == ["0", "1", "2"]
        await crowd.all_gone()

    run(main())


def test_a_newcomer_finds_grown_capacity_but_does_not_overtake():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=10)
        for n in range(3):
            await crowd.come(f"{n}")
        crowd.streams["m"] = 2
        await crowd.come("newcomer")
        assert crowd.entered == ["0", "1"]
        await crowd.all_gone()

    run(main())


def test_a_model_that_was_taken_away_lets_its_waiters_through_to_learn_it():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=1)
        await crowd.come("late")
        del crowd.streams["m"]
        await crowd.all_gone()
        assert crowd.entered == ["late"]

    run(main())


def test_who_leaves_while_waiting_leaves_nothing_behind():
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill()
        leaving = await crowd.come("leaves", "a")
        await crowd.come("stays", "a")
        leaving.cancel()
        await settle()
        assert (crowd.admission.num_waiting, crowd.cancelled) == (1, ["leaves"])
        await crowd.all_gone()
        assert crowd.entered == ["stays"]

    run(main())


def test_who_leaves_in_the_moment_they_would_have_to_give_way_makes_room_all_the_same():
    async def main() -> None:
        crowd = Crowd(max_waiting=2)
        await crowd.fill()
        await crowd.come("a0", "a")
        leaving = await crowd.come("a1", "a")
        newcomer = asyncio.create_task(crowd.visit("b0", "b", "m"))
        crowd.tasks.append(newcomer)
        # The loop runs the newcomer before it tells the one that leaves.
        leaving.cancel()
        await crowd.all_gone()
        assert (crowd.cancelled, crowd.entered, crowd.refused) == (["a1"], ["a0", "b0"], {})

    run(main())


@pytest.mark.parametrize("leaves_first", [True, False])
def test_a_slot_granted_in_the_moment_its_client_leaves_goes_to_the_next(leaves_first: bool):
    async def main() -> None:
        crowd = Crowd()
        await crowd.fill(hold_s=600)
        leaving = await crowd.come("leaves", hold_s=600)
        for name in ("next", "last"):
            await crowd.come(name, hold_s=600)
        crowd.streams["m"] = 2
        # Nothing is awaited in between, so both happen to the waiter in one turn of the loop.
        for happens in (leaving.cancel, crowd.admission.look)[:: 1 if leaves_first else -1]:
            happens()
        await settle()
        assert (crowd.entered, crowd.cancelled) == (["next", "last"], ["leaves"])
        assert (crowd.admission.num_running, crowd.admission.num_waiting) == (4, 0)
        await crowd.all_gone()

    run(main())


def test_a_slot_is_left_however_the_block_ends():
    async def main() -> None:
        admission = Admission(lambda _: 1)
        for begun in (True, False) * 3:
            with pytest.raises(ZeroDivisionError):
                async with admission.slot("m", "", begun=begun, queue_s=1, max_waiting=1):
                    raise ZeroDivisionError
        assert admission.num_running == 0

    run(main())


def test_models_that_nobody_asks_for_any_more_are_forgotten():
    async def main() -> None:
        crowd = Crowd()
        for n in range(20):
            await crowd.come(f"{n}", model=f"m{n}", begun=True, hold_s=1)
        await crowd.come("long", model="long", hold_s=FORGET_S + 10)
        await passed(FORGET_S + 2)
        await crowd.come("new", model="new")
        assert crowd.admission.load().keys() == {"long", "new"}
        await crowd.all_gone()

    run(main())


instants = st.integers(0, 12).map(float)
visits = st.fixed_dictionaries(
    {
        "at_s": instants,
        "key": keys,
        "model": st.sampled_from("mn"),
        "hold_s": st.integers(0, 4).map(float),
        "begun": st.sampled_from([False, False, False, True]),
        "queue_s": st.integers(1, 6).map(float),
        "leaves_s": st.none() | instants,
    }
)
changes = st.lists(st.tuples(instants, st.sampled_from("mn"), st.integers(0, 3)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(visits, max_size=60), changes, st.integers(1, 10))
def test_whatever_happens_everybody_ends_and_nothing_stays_counted(
    all_visits: list[dict[str, Any]], all_changes: list[tuple[float, str, int]], max_waiting: int
):
    """Many things happen at the same instant, in whichever order the loop takes them."""

    async def main() -> None:
        crowd = Crowd(Counter(m=1, n=2), max_waiting=max_waiting)
        admission, loop, names = crowd.admission, asyncio.get_running_loop(), count()
        most = Counter(crowd.streams)

        def change(model: str, num_streams: int) -> None:
            crowd.streams[model] = num_streams
            most[model] = max(most[model], num_streams)
            admission.look()

        def check() -> None:
            assert admission.num_waiting <= max_waiting
            for model, load in admission.load().items():
                num_slots = max(1, 2 * crowd.streams[model])
                running, waiting = load["num_running"], load["num_waiting"]
                assert running is not None
                assert crowd.at_once[model] <= 2 * max(1, most[model])
                assert not waiting or running >= num_slots, "a slot is free and somebody waits"

        async def visit(at_s: float, leaves_s: float | None, **how: Any) -> None:
            await passed(at_s)
            task = asyncio.create_task(crowd.visit(f"{next(names)}", **how))
            crowd.tasks.append(task)
            if leaves_s is not None:
                loop.call_later(leaves_s, task.cancel)

        for at_s, model, num_streams in all_changes:
            loop.call_later(at_s, change, model, num_streams)
        arrivals = [asyncio.create_task(visit(**one)) for one in all_visits]
        for _ in range(120):  # the last comes at 12 s, waits for 6 s and holds for 4 s
            check()
            await passed(0.25)
        await asyncio.gather(*arrivals)
        if crowd.tasks:
            await crowd.all_gone()
        for name, task in enumerate(crowd.tasks):
            assert task.cancelled() or (f"{name}" in crowd.entered) != (f"{name}" in crowd.refused)

    run(main())


def test_a_key_with_fewer_waiting_is_let_wait_where_a_greedy_one_is_refused():
    """Both were refused alike, so whatever fell free went to those of the greedy key that waited already."""

    async def main() -> None:
        crowd = Crowd(queue_s=10.0)
        await crowd.measured(2.0)
        await crowd.fill(hold_s=2.0)
        for n in range(6):
            await crowd.come(f"greedy {n}", "greedy", hold_s=2.0)
        assert set(crowd.refused) == {"greedy 5"}  # the sixth would wait 6 s, which is more than half
        for n in range(3):
            await crowd.come(f"modest {n}", "modest", hold_s=2.0)
        assert set(crowd.refused) == {"greedy 5"}
        await crowd.all_gone()

    run(main())
