"""A call to the meta is refused if the experts that it will probably need next are too busy."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from router.admission.context import AdmissionContext
from router.admission.controller import Admission
from router.admission.handoff_shares import HandoffShares
from router.errors import Overloaded
from tests.fakes.models import in_virtual_time

SLOTS = {"meta": 100, "chem": 2, "law": 2}
QUEUE_S = 4.0


def new_request(key: str = "") -> AdmissionContext:
    return AdmissionContext(QUEUE_S, 1000, key, meta_app="meta", expert_apps=("chem", "law"))


@dataclass
class Cluster:
    """A meta that only decides, and two experts, behind one `Admission`."""

    admission: Admission = field(default_factory=lambda: Admission(SLOTS.__getitem__))

    async def call(self, app: str, request: AdmissionContext, hold_s: float) -> None:
        async with self.admission.slot(app, app, request, has_output=False, left_s=600.0):
            await asyncio.sleep(hold_s)

    async def decide(self, decides_s: float = 0.1, key: str = "") -> None:
        await self.call("meta", new_request(key), decides_s)

    async def answer(self, expert: str) -> None:
        """Let the meta hand over to the expert."""
        request = new_request()
        await self.call("meta", request, 0.1)
        await self.call(expert, request, 4.0)

    async def learn_shares(self, *experts: str) -> None:
        for expert in experts:
            await self.answer(expert)


@pytest.mark.parametrize("busy", [("chem", "law"), ("chem",)])
def test_the_meta_refuses_a_call_if_all_its_experts_are_busy(busy: tuple[str, ...]):
    async def main() -> None:
        cluster = Cluster()
        await cluster.learn_shares(*("chem", "law") * 40)
        async with AsyncExitStack() as stack:
            for app in busy * 2:
                slot = cluster.admission.slot(app, app, new_request(), has_output=True, left_s=600.0)
                await stack.enter_async_context(slot)
            if len(busy) == 2:
                with pytest.raises(Overloaded, match="meta is busy: the wait would be about"):
                    await cluster.decide()
            else:  # half of all answers go to the other expert
                await cluster.decide()
        await cluster.decide()

    in_virtual_time(main())


def test_calls_still_at_the_meta_count_into_the_wait_for_their_expert():
    async def main() -> None:
        cluster = Cluster()
        await cluster.learn_shares(*("chem",) * 60)
        burst = [asyncio.create_task(cluster.decide(1.0)) for _ in range(20)]
        refused = [error for error in await asyncio.gather(*burst, return_exceptions=True) if error]
        assert 10 < len(refused) < 20
        assert all(isinstance(error, Overloaded) for error in refused)
        burst = [asyncio.create_task(cluster.decide(1.0)) for _ in range(20)]
        await asyncio.sleep(0)
        await cluster.decide(key="another key, which has its turn before the burst")
        await asyncio.gather(*burst, return_exceptions=True)

    in_virtual_time(main())


def test_the_choices_of_one_request_at_the_meta_do_not_count_against_other_requests():
    async def main() -> None:
        cluster = Cluster()
        await cluster.learn_shares(*("chem",) * 60)
        large = new_request()
        choices = [asyncio.create_task(cluster.call("meta", large, 1.0)) for _ in range(20)]
        await asyncio.sleep(0)
        await cluster.decide()
        await asyncio.gather(*choices)

    in_virtual_time(main())


def test_shares_follow_the_hand_overs_and_leave_out_calls_that_end_at_the_meta():
    handoff_shares = HandoffShares()
    for n in range(400):
        handoff_shares.decay()
        if n % 4:
            handoff_shares.record("chem" if n % 2 else "law")
    shares = handoff_shares.shares(("chem", "law", "physics"))
    assert shares == pytest.approx({"chem": 0.5, "law": 0.25}, abs=0.05)
    assert handoff_shares.shares(("law",)).keys() == {"law"}


def test_a_queue_without_hand_overs_is_forgotten():
    handoff_shares = HandoffShares()
    handoff_shares.record("chem")
    for _ in range(100):
        handoff_shares.decay()
    assert not handoff_shares.shares(("chem",))
