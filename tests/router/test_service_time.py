"""Estimates of how long a slot is held, and what they mean for calls that arrive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from router.admission.context import AdmissionContext
from router.admission.controller import Admission
from router.errors import Overloaded
from router.service_time import SATURATED_FACTOR, SETTLED_S, ServiceTimeEstimator
from tests.fakes.models import in_virtual_time

SLOTS = 20
QUEUE_S = 4.0


@dataclass
class Engine:
    """An engine whose calls slow down with their number, as calls that share a processor do."""

    alone_s: float
    admission: Admission = field(default_factory=lambda: Admission(lambda _: SLOTS))
    num_running: int = 0
    num_done: int = 0
    refused_after_s: list[float] = field(default_factory=list)

    async def call(self) -> None:
        arrived_s = now()
        try:
            async with self.admission.slot("m", "m", new_request(), has_output=False, left_s=QUEUE_S):
                self.num_running += 1
                await asyncio.sleep(self.alone_s * self.num_running)
                self.num_running -= 1
                self.num_done += 1
        except Overloaded:
            self.refused_after_s.append(now() - arrived_s)

    async def offer_load(self, per_s: float, for_s: float) -> None:
        async with asyncio.TaskGroup() as calls:
            for _ in range(int(per_s * for_s)):
                calls.create_task(self.call())
                await asyncio.sleep(1 / per_s)


def new_request() -> AdmissionContext:
    return AdmissionContext(queue_s=QUEUE_S, max_waiting=1000)


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(("alone_s", "was_full"), [(0.02, False), (0.1, False), (0.3, True)])
def test_in_a_burst_nearly_all_refusals_are_immediate_and_the_model_stays_busy(
    alone_s: float, was_full: bool
):
    """If a saturated model takes longer than calls may wait, a first burst is needed to measure that."""
    engine = Engine(alone_s)
    capacity = 1 / alone_s

    async def main() -> None:
        for _ in range(3):  # without load, when a call takes a twentieth of the time
            await engine.call()
        if was_full:
            await engine.offer_load(2 * capacity, 15.0)
            engine.num_done = 0
            engine.refused_after_s.clear()
        await engine.offer_load(10 * capacity, 30.0)

    in_virtual_time(main())
    refused = sorted(engine.refused_after_s)
    assert refused[int(0.99 * len(refused))] == 0.0, [after_s for after_s in refused if after_s][:20]
    assert engine.num_done > 0.9 * 30.0 * capacity


def test_before_the_first_call_has_ended_there_is_no_estimate():
    async def main() -> None:
        estimator = ServiceTimeEstimator()
        estimator.filled()
        assert estimator.hold_s(SLOTS) is None

    in_virtual_time(main())


def test_a_saturated_model_is_assumed_to_be_slower_until_that_is_measured():
    async def main() -> None:
        estimator = ServiceTimeEstimator()
        estimator.ended(1.0, 10)
        estimator.filled()
        assert estimator.hold_s(10) == SATURATED_FACTOR
        for _ in range(5):
            await asyncio.sleep(0.2)
            estimator.ended(1.0, 10)
        assert estimator.hold_s(10) == pytest.approx(2.0)  # five a second

    in_virtual_time(main())


def test_a_measurement_is_kept_until_the_next_saturation():
    async def main() -> None:
        estimator = ServiceTimeEstimator()
        estimator.filled()
        for _ in range(10):
            await asyncio.sleep(0.5)
            estimator.ended(1.0, 10)
        estimator.emptied()
        await asyncio.sleep(100)
        estimator.filled()
        assert estimator.hold_s(10) == pytest.approx(5.0)

    in_virtual_time(main())


def test_the_estimate_grows_while_no_call_ends():
    async def main() -> None:
        estimator = ServiceTimeEstimator()
        estimator.filled()
        for _ in range(10):
            await asyncio.sleep(0.5)
            estimator.ended(1.0, 10)
        await asyncio.sleep(15)
        assert estimator.hold_s(10) == pytest.approx(20.0)

    in_virtual_time(main())


def test_the_estimate_follows_a_model_that_became_faster():
    async def main() -> None:
        estimator = ServiceTimeEstimator()
        estimator.filled()
        for pause_s in [10.0] * 20 + [0.1] * 400:
            await asyncio.sleep(pause_s)
            estimator.ended(1.0, 10)
        assert estimator.hold_s(10) == pytest.approx(1.0, rel=0.2)

    in_virtual_time(main())


def test_the_first_call_to_wait_at_a_model_is_not_refused_for_a_guess():
    """A quiet cluster must not refuse one call more than it has slots."""
    admission = Admission(lambda _: SLOTS)

    async def call_once(hold_s: float) -> None:
        async with admission.slot("m", "m", new_request(), has_output=False, left_s=QUEUE_S):
            await asyncio.sleep(hold_s)

    async def main() -> None:
        await call_once(QUEUE_S / SATURATED_FACTOR)
        await asyncio.gather(*(call_once(QUEUE_S / SATURATED_FACTOR) for _ in range(SLOTS + 1)))

    in_virtual_time(main())


def test_a_burst_on_idle_replicas_waits_until_they_accept_it():
    """Replicas accept a few calls at a time; calls behind those must not take the model for a busy one."""
    num_taken = 0
    admission = Admission(lambda _: min(num_taken + 1, SLOTS), lambda _: SLOTS)

    async def call_once(hold_s: float) -> None:
        nonlocal num_taken
        async with admission.slot("m", "m", new_request(), has_output=False, left_s=QUEUE_S):
            await asyncio.sleep(0.01)
            num_taken += 1
            await asyncio.sleep(hold_s)
            num_taken -= 1

    async def main() -> None:
        await call_once(2 * QUEUE_S)
        burst = [asyncio.create_task(call_once(2 * QUEUE_S)) for _ in range(SLOTS)]
        await asyncio.sleep(SETTLED_S + 0.1)
        with pytest.raises(Overloaded):  # now the replicas are busy
            await call_once(0.0)
        await asyncio.gather(*burst)

    in_virtual_time(main())
