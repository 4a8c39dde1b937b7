"""How long slots are held: what is learned of a model that is full, and what follows for whoever comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from router.admission import Admission
from router.errors import Overloaded
from router.pace import GUESS, SETTLED_S, Pace
from tests.fakes import in_virtual_time

SLOTS = 20
QUEUE_S = 4.0


@dataclass
class Engine:
    """Makes a call take as much longer as there are others, as a processor does that all of them share."""

    alone_s: float
    admission: Admission = field(default_factory=lambda: Admission(lambda _: SLOTS))
    num_running: int = 0
    num_done: int = 0
    refused_after_s: list[float] = field(default_factory=list)

    async def call(self, key: str = "") -> None:
        came_s = now()
        try:
            async with self.admission.slot("m", key, begun=False, queue_s=QUEUE_S, max_waiting=1000):
                self.num_running += 1
                await asyncio.sleep(self.alone_s * self.num_running)
                self.num_running -= 1
                self.num_done += 1
        except Overloaded:
            self.refused_after_s.append(now() - came_s)

    async def offered(self, per_s: float, for_s: float) -> None:
        async with asyncio.TaskGroup() as calls:
            for _ in range(int(per_s * for_s)):
                calls.create_task(self.call())
                await asyncio.sleep(1 / per_s)


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(("alone_s", "was_full"), [(0.02, False), (0.1, False), (0.3, True)])
def test_in_a_burst_hardly_anybody_waits_in_vain_and_the_model_is_kept_busy(alone_s: float, was_full: bool):
    """Where a full model is slower than the time to wait in line, it takes a first burst to know."""
    engine = Engine(alone_s)
    capacity = 1 / alone_s

    async def main() -> None:
        for _ in range(3):  # in peace, when a call takes a twentieth of what it will
            await engine.call()
        if was_full:
            await engine.offered(2 * capacity, 15.0)
            engine.num_done = 0
            engine.refused_after_s.clear()
        await engine.offered(10 * capacity, 30.0)

    in_virtual_time(main())
    refused = sorted(engine.refused_after_s)
    assert refused[int(0.99 * len(refused))] == 0.0, [one for one in refused if one][:20]
    assert engine.num_done > 0.9 * 30.0 * capacity


def test_until_anything_has_ended_nothing_is_known():
    async def main() -> None:
        pace = Pace()
        pace.filled()
        assert pace.hold_s(SLOTS) is None

    in_virtual_time(main())


def test_a_model_that_is_full_is_taken_to_be_slower_until_that_is_measured():
    async def main() -> None:
        pace = Pace()
        pace.ended(1.0, 10)
        pace.filled()
        assert pace.hold_s(10) == GUESS
        for _ in range(5):
            await asyncio.sleep(0.2)
            pace.ended(1.0, 10)
        assert pace.hold_s(10) == pytest.approx(2.0)  # five a second

    in_virtual_time(main())


def test_what_was_measured_is_remembered_when_the_model_fills_again():
    async def main() -> None:
        pace = Pace()
        pace.filled()
        for _ in range(10):
            await asyncio.sleep(0.5)
            pace.ended(1.0, 10)
        pace.emptied()
        await asyncio.sleep(100)
        pace.filled()
        assert pace.hold_s(10) == pytest.approx(5.0)

    in_virtual_time(main())


def test_a_model_at_which_nothing_ends_gets_slower_by_the_second():
    async def main() -> None:
        pace = Pace()
        pace.filled()
        for _ in range(10):
            await asyncio.sleep(0.5)
            pace.ended(1.0, 10)
        await asyncio.sleep(15)
        assert pace.hold_s(10) == pytest.approx(20.0)

    in_virtual_time(main())


def test_a_model_that_became_fast_is_found_to_be_fast():
    async def main() -> None:
        pace = Pace()
        pace.filled()
        for pause_s in [10.0] * 20 + [0.1] * 400:
            await asyncio.sleep(pause_s)
            pace.ended(1.0, 10)
        assert pace.hold_s(10) == pytest.approx(1.0, rel=0.2)

    in_virtual_time(main())


def test_the_first_to_wait_at_a_model_that_was_never_full_is_not_sent_away_for_a_guess():
    """At a GUESS of three times the mean, one more than a quiet cluster had slots for was refused."""
    admission = Admission(lambda _: SLOTS)

    async def call_once(hold_s: float) -> None:
        async with admission.slot("m", "", begun=False, queue_s=QUEUE_S, max_waiting=10):
            await asyncio.sleep(hold_s)

    async def main() -> None:
        await call_once(QUEUE_S / GUESS)
        await asyncio.gather(*(call_once(QUEUE_S / GUESS) for _ in range(SLOTS + 1)))

    in_virtual_time(main())


def test_a_burst_on_idle_replicas_waits_until_they_take_it_and_is_not_refused():
    """A few calls are on their way to replicas at a time; who came behind those was told of a busy model."""
    num_taken = 0
    admission = Admission(lambda _: min(num_taken + 1, SLOTS), lambda _: SLOTS)

    async def call_once(hold_s: float) -> None:
        nonlocal num_taken
        async with admission.slot("m", "", begun=False, queue_s=QUEUE_S, max_waiting=100):
            await asyncio.sleep(0.01)
            num_taken += 1
            await asyncio.sleep(hold_s)
            num_taken -= 1

    async def main() -> None:
        await call_once(2 * QUEUE_S)
        burst = [asyncio.create_task(call_once(2 * QUEUE_S)) for _ in range(SLOTS)]
        await asyncio.sleep(SETTLED_S + 0.1)
        with pytest.raises(Overloaded):  # now they are busy
            await call_once(0.0)
        await asyncio.gather(*burst)

    in_virtual_time(main())
