"""What a client gets of a chain, streamed and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from router.chain_rules import ChainRules
from router.model_port import Finish, ModelChunk, ModelRequest
from tests.fakes.models import FakeGateway, FakeModel, writes
from tests.router.api.test_http_parts import events, whole


def chain_of_two(*, reveal: bool) -> FakeGateway:
    """`roman` drafts, `morse` writes anew, and nothing remains."""

    def meta(ask: ModelRequest) -> Sequence[ModelChunk]:
        distribution = dict.fromkeys(ask.allowed, 0.4) if ask.probe else None
        expert = ask.allowed[0]
        return [
            ModelChunk(num_prompt_tokens=3, finish=Finish.EXPERT, expert=expert, distribution=distribution)
        ]

    models = {"meta": FakeModel(meta), "roman": FakeModel(writes("a", "b")), "morse": FakeModel(writes("c"))}
    gateway = FakeGateway(models)
    changes = {"after_expert": "chain", "chain": ChainRules(reveal=reveal)}
    gateway.table = gateway.table.model_copy(update=changes)
    return gateway


async def test_the_trace_has_the_earlier_answers_and_the_usage_counts_them():
    choice = await whole(chain_of_two(reveal=False), routing={"trace": True})
    assert choice["message"] == {"role": "assistant", "content": "c", "refusal": None}
    assert [[span["text"] for span in draft] for draft in choice["routing"]["drafts"]] == [["ab"]]
    assert [span["model"] for span in choice["routing"]["spans"]] == ["morse"]


@pytest.mark.parametrize(("include", "reasoning"), [(True, "ab\n\n"), (False, None)])
async def test_earlier_answers_are_revealed_unless_the_client_wants_no_reasoning(
    include: bool, reasoning: Any
):
    gateway = chain_of_two(reveal=True)
    choice = await whole(gateway, include_reasoning=include)
    assert (choice["message"]["content"], choice["message"].get("reasoning")) == ("c", reasoning)
    deltas = [event["delta"] for event in await events(gateway, include_reasoning=include)]
    assert "".join(delta.get("content") or "" for delta in deltas) == "c"
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == (reasoning or "")
