"""Limits that hold whatever fails: of hand-overs, of pauses, and of what may be refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router.admission.context import AdmissionContext
from router.admission.controller import Admission
from router.decoding.decode import Decoder
from router.decoding.policy import Target
from router.errors import DeadlineExceeded, ModelFailed
from router.model_port import ModelChunk
from router.parts import Part, ReasoningPart, TextPart
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    DIRECT,
    EXPERTS,
    GENERATION,
    GONE,
    STOP,
    FakeModel,
    expert_table,
    in_virtual_time,
    playing,
    to,
    word,
)


def test_an_expert_that_fails_with_a_tools_result_leaves_no_further_hand_over():
    models = playing(chem=[[ModelFailed("broken")]], meta=[[word("hi"), STOP]])
    generation = replace(GENERATION, target=Target("chem", routed=True))
    decoder = Decoder(expert_table(max_handoffs=0), models, FakeRoutes())

    async def main() -> None:
        async for _ in decoder.decode(generation):
            pass

    in_virtual_time(main())
    assert models["meta"].asks[0].allowed == ()


@pytest.mark.parametrize("total_s", [30.0, 3000.0])  # in the longer, 2**n fails as a float
def test_pauses_between_repeated_calls_end_with_the_answers_deadline(total_s: float):
    models = {"meta": FakeModel(lambda _: [GONE]), **{name: FakeModel(lambda _: [GONE]) for name in EXPERTS}}
    table = expert_table(retries=9999, max_resumes=9999, deadlines={"total_s": total_s})
    decoder = Decoder(table, models, FakeRoutes(ready=("meta", *EXPERTS)))

    async def main() -> float:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        with pytest.raises(DeadlineExceeded):
            async for _ in decoder.decode(DIRECT):
                pass
        return clock() - began_s

    assert in_virtual_time(main()) == pytest.approx(total_s, abs=0.1)
    assert len(models["chem"].asks) > 10, "pauses do not grow without end"


@pytest.mark.parametrize("part", [ReasoningPart("hm"), TextPart("Sure. ")], ids=["thoughts", "text"])
def test_an_answer_that_has_shown_anything_is_not_refused(part: Part):
    """The meta wrote, and hands over to an expert whose only slot is taken for longer than `queue_s`."""
    raw = part.text if isinstance(part, TextPart) else "<think>"
    models = playing(meta=[[ModelChunk(raw, 1, parts=(part,)), to("chem")]], chem=[[word("hi"), STOP]])
    admission = Admission(lambda app: 1)

    async def main() -> int:
        slot = admission.slot("chem", "chem", AdmissionContext(9, 99, "b"), has_output=True, left_s=99)
        async with slot:
            decoder = Decoder(
                expert_table(deadlines={"queue_s": 1}), models, FakeRoutes(), admission=admission
            )
            answering = asyncio.create_task(_num_items(decoder))
            await asyncio.sleep(5)
        return await answering

    assert in_virtual_time(main()) >= 3


async def _num_items(decoder: Decoder) -> int:
    return len([item async for item in decoder.decode(GENERATION)])
