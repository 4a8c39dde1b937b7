"""The last hour: what counts as a hand-over, and what is forgotten."""

from __future__ import annotations

import asyncio

from router.decisions.last_hour import NUM_MINUTES, LastHour
from router.decisions.metrics import DECISIONS, SHADOW_DECISIONS, SHADOW_WINS
from router.decoding.timing import CallTiming, Timing
from tests.fakes.models import expert_table, in_virtual_time


def answer(*models: str) -> Timing:
    timing = Timing()
    timing.calls += [CallTiming(model, queue_s=0.5, decode_s=1.0) for model in models]
    return timing


async def test_a_hand_over_is_a_call_of_an_expert_behind_another_model():
    hour = LastHour()
    for models in (["meta"], ["meta", "chem"], ["chem"], ["meta", "chem", "chem", "meta", "law"]):
        hour.add(answer(*models))
    summary = hour.summary()
    assert (summary.num_answers, summary.handovers) == (4, {"chem": 2, "law": 1})
    assert summary.phases_s["queue"] == 9 * 0.5
    assert summary.phases_s["decode"] == 9.0


async def test_only_the_experts_of_the_table_are_shown():
    hour = LastHour()
    hour.add(answer("meta", "chem"))
    hour.add(answer("meta", "forgotten"))
    shown = hour.summary().to_json(expert_table(shadows=("law-v2",)))
    assert shown["handovers"] == {"chem": 1, "law": 0, "weather": 0}
    assert shown["shadows"] == {"law-v2": {"num_answers": 0, "num_wins": 0}}


async def test_shadow_experts_are_counted():
    hour = LastHour()
    for _ in range(3):
        hour.count(SHADOW_DECISIONS, 1, {"shadow": "law-v2"})
    hour.count(SHADOW_WINS, 1, {"shadow": "law-v2", "over": "meta"})
    hour.count(DECISIONS, 1, {"target": "chem"})
    shown = hour.summary().to_json(expert_table(shadows=("law-v2",)))
    assert shown["shadows"] == {"law-v2": {"num_answers": 3, "num_wins": 1}}


def test_what_is_older_than_an_hour_is_forgotten():
    async def two_hours() -> tuple[list[int], int]:
        hour, counts = LastHour(), []
        for _ in range(2 * NUM_MINUTES):
            hour.add(answer("meta", "chem"))
            counts.append(hour.summary().num_answers)
            await asyncio.sleep(60)
        await asyncio.sleep(3600)
        return counts, hour.summary().num_answers

    counts, later = in_virtual_time(two_hours())
    assert counts == [*range(1, NUM_MINUTES + 1), *[NUM_MINUTES] * NUM_MINUTES]
    assert later == 0
