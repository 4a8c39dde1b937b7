"""A hand-over in place is accounted as any other; the expert writes on within the meta's call."""

from dataclasses import replace

import pytest

from router.decoding.decode import Decoder
from router.decoding.generation import ModelUsage
from router.decoding.transcript import StopRule
from router.errors import ModelDied, ModelFailed
from router.model_port import Finish, ModelChunk, Resumed
from router.table import META, ModelEntry
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    GENERATION,
    GONE,
    STOP,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    playing,
    to,
    word,
)
from tests.support.answering import answer

EXPERTS = {
    "chem": ModelEntry(app=META, adapter="chem", on_unavailable="wait"),
    "law": ModelEntry(app="law"),
}
LENGTH = ModelChunk(finish=Finish.LENGTH)


def here(expert: str, text: str = "", probability: float = 0.9) -> ModelChunk:
    """The hand-over in place, with the last text before it."""
    return ModelChunk(text, num_tokens=bool(text), expert=expert, probability=probability)


def own(text: str, token_id: int, **first: object) -> ModelChunk:
    return replace(word(text), ids=(token_id,), **first)  # type: ignore[arg-type]


def test_one_call_has_the_spans_and_the_usage_of_two():
    meta = [
        replace(word("It "), num_prompt_tokens=9),
        here("chem", "is ", 0.7),
        replace(word("H2"), num_prompt_tokens=3),
        word("O."),
        STOP,
    ]
    models = playing(meta=[meta])
    text, done = answer(models, experts=EXPERTS)
    assert (text, done.finish, done.num_prompt_tokens) == ("It is H2O.", Finish.STOP, 9)
    assert [(s.model, s.text, s.num_tokens, s.probability) for s in done.spans] == [
        (META, "It is ", 2, None),
        ("chem", "H2O.", 2, 0.7),
    ]
    assert done.usage_by_model == {META: ModelUsage(1, 9, 2), "chem": ModelUsage(1, 3, 2)}
    assert [(each.winner, each.probability) for each in done.decisions] == [("chem", 0.7)]
    [ask] = models[META].asks
    assert (ask.allowed, ask.in_place, ask.adapter) == (("chem", "law"), {"chem": "chem"}, None)


def test_the_part_of_the_expert_has_a_time_of_its_own():
    meta: list[Item] = [word("a"), Pause(1.0), here("chem"), Pause(2.0), word("b"), Pause(4.0), STOP]
    _, done = answer(playing(meta=[meta]), experts=EXPERTS)
    found = [(call.model, {k: v for k, v in call.phases() if v}) for call in done.timing.calls]
    assert found == [(META, {"decision": 1.0}), ("chem", {"prefill": 2.0, "decode": 4.0})]
    assert done.timing.total_s == pytest.approx(7.0)
    assert [call.num_tokens for call in done.timing.calls] == [1, 1]


def test_a_stop_string_may_begin_before_and_end_after_the_hand_over():
    meta = [[here("chem", "ab"), word("cd"), STOP]]
    text, done = answer(playing(meta=meta), replace(GENERATION, stop=StopRule(("bc",))), experts=EXPERTS)
    assert (text, done.finish, done.stop_reason) == ("a", Finish.STOP, "bc")
    # It may also be complete before: then nobody takes over.
    meta = [[here("chem", "abc"), word("d"), STOP]]
    text, done = answer(playing(meta=meta), replace(GENERATION, stop=StopRule(("bc",))), experts=EXPERTS)
    assert (text, [span.model for span in done.spans]) == ("a", [META])


def test_the_budget_spans_the_hand_over():
    models = playing(meta=[[here("chem", "a"), word("b"), LENGTH]])
    text, done = answer(models, replace(GENERATION, max_tokens=2), experts=EXPERTS)
    assert (text, done.finish, models[META].asks[0].max_tokens) == ("ab", Finish.LENGTH, 2)


def test_an_expert_returns_control_until_the_hand_overs_are_used_up():
    models = playing(meta=[[here("chem", "a"), word("b"), STOP], [word("c"), STOP]])
    text, done = answer(models, experts=EXPERTS, after_expert="return", max_handoffs=1)
    assert (text, done.finish) == ("abc", Finish.STOP)
    assert [(ask.written, ask.allowed, ask.in_place) for ask in models[META].asks] == [
        ("", ("chem", "law"), {"chem": "chem"}),
        ("ab", (), {}),
    ]


def test_experts_in_place_and_elsewhere_stand_side_by_side():
    models = playing(meta=[[word("a"), to("law")]], law=[[word("b"), STOP]])
    assert answer(models, experts=EXPERTS)[0] == "ab"


@pytest.mark.parametrize("fault", [GONE, ModelDied("died", "r1"), Pause()])
def test_a_lost_replica_is_replaced_by_a_call_of_the_expert(fault: Item):
    meta: list[list[Item]] = [
        [own("a", 1, tokenizer="t"), here("chem"), own("b", 2, tokenizer="t"), fault],
        [word("c"), STOP],
    ]
    models = playing(meta=meta)
    text, done = answer(models, experts=EXPERTS)
    assert (text, [span.model for span in done.spans]) == ("abc", [META, "chem"])
    again = models[META].asks[1]
    assert (again.adapter, again.written, again.allowed, again.in_place) == ("chem", "a", (), {})
    assert again.resumed == Resumed("b", (2,), "t")


def test_a_replica_lost_at_the_hand_over_is_replaced_too():
    models = playing(meta=[[here("chem", "a"), GONE], [word("b"), STOP]])
    text, done = answer(models, experts=EXPERTS)
    assert (text, models[META].asks[1].adapter) == ("ab", "chem")
    assert [span.model for span in done.spans] == [META, "chem"]


def test_an_expert_that_fails_is_replaced_by_the_meta():
    models = playing(meta=[[here("chem", "a"), ModelFailed("broken")], [word("b"), STOP]])
    text, done = answer(models, experts=EXPERTS)
    assert (text, models[META].asks[1].allowed) == ("ab", ("law",))
    assert done.decisions[0].redecided is not None


@pytest.mark.parametrize("expert", ["law", "unknown"])
def test_an_expert_that_is_elsewhere_cannot_take_over_in_place(expert: str):
    with pytest.raises(ModelFailed, match="not in the allowed set"):
        answer(playing(meta=[[here(expert), word("b"), STOP]]), experts=EXPERTS)


def test_a_probe_asks_for_no_hand_over():
    async def main() -> ModelChunk:
        decoder = Decoder(expert_table(experts=EXPERTS), models, FakeRoutes())
        return (await decoder.distribution(GENERATION)).chunk

    models = playing(meta=[[ModelChunk(distribution={"chem": 0.5}, finish=Finish.STOP)]])
    assert in_virtual_time(main()).distribution == {"chem": 0.5}
    assert models[META].asks[0].in_place == {}


def test_only_experts_that_the_table_has_can_take_over():
    table = expert_table(experts=EXPERTS)
    assert table.in_place == {"chem": "chem"}
    assert table.model_copy(update={"experts": {"law": EXPERTS["law"]}}).in_place == {}
