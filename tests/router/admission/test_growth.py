"""A call waits, and a router renews its lease, at a cost that does not grow with all the others."""

from __future__ import annotations

import asyncio

import pytest

from router.admission.context import AdmissionContext
from router.admission.fair_queue import FairQueue, Ticket
from router.admission.lease import LeaseReport, Limit
from router.admission.limit_ledger import LimitLedger
from router.admission.waiting_calls import WaitingCalls
from tests.support.steps import num_steps


@pytest.mark.parametrize("num_keys", [1, 10_000], ids=["one-key", "a-key-each"])
async def test_a_waiting_call_costs_the_same_however_many_wait(num_keys: int):
    def cost(num_waiting: int) -> int:
        queue, waiting = FairQueue("meta", 0.0), WaitingCalls[Ticket]()
        for number in range(num_waiting):
            waiting.add(_ticket(queue, f"key {number % num_keys}"))
        late = _ticket(queue, "key 0" if num_keys == 1 else "late")

        def wait() -> None:
            assert waiting.num_before(late.context) == num_waiting
            waiting.add(late)
            assert len(waiting) == num_waiting + 1
            assert waiting.take() is not None

        return num_steps(wait)

    assert cost(1000) <= cost(20)


def test_a_renewal_costs_the_same_however_many_routers_there_are():
    def cost(num_routers: int) -> int:
        ledger = LimitLedger(lambda: 1.0, lambda: 1.0)
        report = LeaseReport(6000, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0)
        reports = {"key": dict.fromkeys(Limit, report)}
        for number in range(num_routers):
            ledger.renew(f"router {number}", 0, reports)
        return num_steps(lambda: ledger.renew("router 0", 0, reports))

    assert cost(100) <= cost(5)


def _ticket(queue: FairQueue, key: str) -> Ticket:
    outcome = asyncio.get_running_loop().create_future()
    return Ticket(queue, AdmissionContext(60.0, 10_000, key), "meta", outcome)
