"""Whoever is let in by the meta needs an expert next: refused at the door where experts are what is short."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from router.admission import Admission
from router.errors import Overloaded
from router.onward import Onward
from tests.fakes import in_virtual_time

SLOTS = {"meta": 100, "chem": 2, "law": 2}
QUEUE_S = 4.0


@dataclass
class Hall:
    admission: Admission = field(default_factory=lambda: Admission(SLOTS.__getitem__))

    async def meta(self, stays_s: float = 0.1, key: str = "") -> None:
        """Decide an answer, without a word of the meta's own."""
        async with self.admission.slot(
            "meta", key, begun=False, queue_s=QUEUE_S, max_waiting=1000, may_go_to=("chem", "law")
        ):
            await asyncio.sleep(stays_s)

    async def expert(self, name: str, writes_s: float = 4.0) -> None:
        async with self.admission.slot(
            name, "", begun=False, queue_s=QUEUE_S, max_waiting=1000, came_from="meta"
        ):
            await asyncio.sleep(writes_s)

    async def ask(self, name: str) -> None:
        await self.meta()
        await self.expert(name)

    async def learned(self, *names: str) -> None:
        """Let answers go where later ones are expected to go, one after the other."""
        for name in names:
            await self.ask(name)


@pytest.mark.parametrize("busy", [("chem", "law"), ("chem",)])
def test_an_answer_is_refused_at_the_door_where_every_expert_it_may_need_is_busy(busy: tuple[str, ...]):
    async def main() -> None:
        hall = Hall()
        await hall.learned(*("chem", "law") * 40)
        async with AsyncExitStack() as stack:
            for name in busy * 2:
                slot = hall.admission.slot(name, "", begun=True, queue_s=QUEUE_S, max_waiting=9)
                await stack.enter_async_context(slot)
            if len(busy) == 2:
                with pytest.raises(Overloaded, match="meta is busy: the wait would be about"):
                    await hall.meta()
            else:  # half of all answers go elsewhere
                await hall.meta()
        await hall.meta()

    in_virtual_time(main())


def test_answers_under_way_to_an_expert_are_counted_though_its_line_is_short():
    async def main() -> None:
        hall = Hall()
        await hall.learned(*("chem",) * 60)
        asked = [asyncio.create_task(hall.meta(1.0)) for _ in range(20)]
        refused = [one for one in await asyncio.gather(*asked, return_exceptions=True) if one]
        assert 10 < len(refused) < 20
        assert all(isinstance(one, Overloaded) for one in refused)
        greedy = [asyncio.create_task(hall.meta(1.0)) for _ in range(20)]
        await asyncio.sleep(0)
        await hall.meta(key="another's turn is before theirs")
        await asyncio.gather(*greedy, return_exceptions=True)

    in_virtual_time(main())


def test_shares_follow_where_answers_go_and_the_rest_stays():
    onward = Onward()
    for n in range(400):
        onward.left()
        if n % 4:
            onward.went_to("chem" if n % 2 else "law")
    shares = onward.shares(("chem", "law", "physics"))
    assert shares == pytest.approx({"chem": 0.5, "law": 0.25}, abs=0.05)
    assert onward.shares(("law",)).keys() == {"law"}


def test_where_nobody_goes_any_more_is_forgotten():
    onward = Onward()
    onward.went_to("chem")
    for _ in range(100):
        onward.left()
    assert not onward.shares(("chem",))
