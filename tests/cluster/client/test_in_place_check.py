"""What an adapter gives in place beside what it gives alone: each question is asked both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.client.in_place_check import MAX_QUERIES, InPlaceCheck, check_in_place
from experts.learn.queries import Query
from router.dialects.app import build_app
from router.model_port import ModelChunk, ModelRequest
from router.table import META, ModelEntry, RouteTable
from tests.fakes.models import STOP, FakeGateway, FakeModel, served, word

TABLE = RouteTable(
    table_version=1,
    name="generalist",
    meta=ModelEntry(app=META),
    experts={"law": ModelEntry(app=META, adapter="law", on_unavailable="wait")},
)
IN_PLACE = {"equal": "a b c d", "differs": "a b X", "late": "d"}
ALONE = "a b c d"


def meta(ask: ModelRequest) -> list[ModelChunk]:
    """Serves the expert in both ways, as an engine does that holds its adapter."""
    if ask.adapter == "law":
        return [word(ALONE), STOP]
    assert ask.prompt.messages is not None
    question = ask.prompt.messages[-1].content
    if question not in IN_PLACE:
        return [word("I do not know."), STOP]
    before = [word("a b c ")] if question == "late" else []
    return [*before, ModelChunk(expert="law", probability=0.9), word(IN_PLACE[question]), STOP]


def check(queries: Sequence[Query]) -> tuple[InPlaceCheck, int]:
    """The check, and how many calls it made."""
    model = FakeModel(meta)
    with served(build_app(FakeGateway({META: model, "law": model}, ready=("law",), table=TABLE))) as url:
        found = asyncio.run(check_in_place(url, "generalist", "law", queries))
    return found, len(model.asks)


def query(text: str, expert: str | None = "law", written: str = "") -> Query:
    return Query(({"role": "user", "content": text},), expert, written)


def test_answers_that_were_handed_over_at_their_start_are_compared():
    found, _ = check([query(text) for text in ("equal", "differs", "late", "unknown")])
    assert found == InPlaceCheck("law", 4, (1.0, 4 / 7))
    assert (found.num_equal, round(found.mean_part, 3)) == (1, 0.786)


def test_only_whole_questions_of_the_expert_are_asked_and_not_too_many():
    others = [query("equal", None), query("equal", "chem"), query("equal", written="a b")]
    found, num_calls = check(others + [query("equal")] * (MAX_QUERIES + 5))
    assert found == InPlaceCheck("law", MAX_QUERIES, (1.0,) * MAX_QUERIES)
    assert num_calls == 2 * MAX_QUERIES
