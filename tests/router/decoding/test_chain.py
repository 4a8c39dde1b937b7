"""A chain: several experts write one answer, one after another, and the client gets the last one whole."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.chain_rules import CHAIN_STOP
from router.decoding.delta import ReasoningDelta, TextDelta
from router.decoding.generation import GenerationRequest
from router.decoding.policy import Routing
from router.decoding.transcript import StopRule
from router.errors import DeadlineExceeded, ModelFailed, Overloaded, RouterError
from router.model_port import Finish, ModelChunk, ModelRequest
from router.parts import ReasoningPart, ToolCallPart
from router.prompt import Message, Prompt
from router.table import META
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    EXPERTS,
    GENERATION,
    GONE,
    STOP,
    FakeModel,
    Item,
    Pause,
    expert_table,
    playing,
    to,
    within_budget,
    word,
)
from tests.support.answering import answer, answer_in_parts

SYSTEM = Message("system", "Be brief.")
QUESTION = replace(GENERATION, prompt=Prompt(messages=(SYSTEM, Message("user", "Why?"))))
PROMPT = "Q: {{ question }} A: {{ answer }}"
FULL = ModelChunk(finish=Finish.LENGTH)


def chosen(expert: str | None, probability: float = 0.8) -> list[Item]:
    """The meta's answer to a probe."""
    distribution = {} if expert is None else {expert: probability}
    finish = Finish.STOP if expert is None else Finish.EXPERT
    return [
        ModelChunk(
            num_prompt_tokens=5,
            finish=finish,
            expert=expert,
            probability=probability,
            distribution=distribution,
        )
    ]


def chained(
    models: Any, generation: GenerationRequest = QUESTION, routes: FakeRoutes | None = None, **changes: Any
) -> Any:
    chain = {"prompt": PROMPT, **changes.pop("chain", {})}
    return answer(models, generation, routes, after_expert="chain", chain=chain, **changes)


def test_the_next_expert_writes_the_answer_anew_and_the_meta_decides_when_it_stands():
    models = playing(
        meta=[[to("chem")], chosen("law", 0.7), chosen(None)],
        chem=[[word("dra"), word("ft"), STOP]],
        law=[[word("better"), STOP]],
    )
    text, done = chained(models)
    assert (text, done.finish, done.num_completion_tokens) == ("better", Finish.STOP, 3)
    assert [(span.model, span.text, span.probability) for span in done.spans] == [("law", "better", 0.7)]
    assert [[(span.model, span.text) for span in draft] for draft in done.drafts] == [[("chem", "draft")]]
    asked = models["law"].asks[0]
    assert asked.prompt.messages == (SYSTEM, Message("user", "Q: Why? A: draft"))
    assert (asked.written, asked.allowed) == ("", ())
    probes = models[META].asks[1:]
    assert [probe.allowed for probe in probes] == [("law", "weather"), ("weather",)]
    questions = [(probe.prompt.messages or ())[-1].content for probe in probes]
    assert questions == ["Q: Why? A: draft", "Q: Why? A: better"]
    assert all(probe.probe for probe in probes)
    assert done.usage_by_model[META].num_prompt_tokens == 10
    assert [decision.winner for decision in done.decisions] == ["chem", "law", None]


def test_an_answer_that_no_expert_took_over_at_its_start_is_shown_while_it_is_written():
    models = playing(meta=[[word("By "), to("chem")]], chem=[[word("it."), STOP]])
    deltas, done = answer_in_parts(models, QUESTION, after_expert="chain")
    assert [delta.text for delta in deltas if isinstance(delta, TextDelta)] == ["By ", "it."]
    assert (done.drafts, len(models[META].asks)) == ([], 1)


def test_a_draft_is_held_back_until_the_decision():
    models = playing(meta=[[to("chem")], chosen(None)], chem=[[word("a"), word("b"), STOP]])
    deltas, _ = answer_in_parts(models, QUESTION, after_expert="chain")
    assert [delta.text for delta in deltas if isinstance(delta, TextDelta)] == ["a", "b"]
    assert len(models[META].asks) == 2


def test_the_row_that_says_good_enough_ends_the_chain():
    models = playing(meta=[[to("chem")], chosen(CHAIN_STOP)], chem=[[word("a"), STOP]])
    assert chained(models, has_chain_stop=True)[0] == "a"
    assert [ask.allowed for ask in models[META].asks] == [EXPERTS, ("law", "weather", CHAIN_STOP)]


@pytest.mark.parametrize(
    "script",
    [
        [ModelFailed("x")],
        [word("be"), ModelFailed("x")],
        [GONE],
        [word("be"), FULL],
        [STOP],
        [word(" "), STOP],
        [DeadlineExceeded("x")],
        [Overloaded("x")],
        [word("be"), Pause(1000)],
    ],
)
def test_if_a_later_expert_does_not_come_to_its_end_the_answer_before_it_stands(script: list[Item]):
    models = playing(meta=[[to("chem")], chosen("law")], chem=[[word("draft"), STOP]], law=[script] * 3)
    text, done = chained(models, max_resumes=2)
    assert (text, done.finish, done.drafts) == ("draft", Finish.STOP, [])
    assert [span.model for span in done.spans] == ["chem"]
    assert done.decisions[-1].redecided is not None


@pytest.mark.parametrize("probe", [[ModelFailed("x")], [GONE], [STOP]])
def test_if_the_meta_fails_at_the_decision_the_answer_stands(probe: list[Item]):
    models = playing(meta=[[to("chem")], probe, probe], chem=[[word("draft"), STOP]])
    text, done = chained(models)
    assert (text, [decision.redecided for decision in done.decisions]) == ("draft", [None, None])


def test_if_the_prompt_cannot_be_rendered_for_an_answer_it_stands():
    models = playing(meta=[[to("chem")]], chem=[[word("draft"), STOP]])
    text, done = chained(models, chain={"prompt": "{{ question }} {{ 1 / (answer | length - 5) }}"})
    assert (text, [decision.redecided for decision in done.decisions]) == ("draft", [None])


def test_a_later_expert_whose_replica_is_lost_resumes_on_another_one():
    models = playing(
        meta=[[to("chem")], chosen("law"), chosen(None)],
        chem=[[word("draft"), STOP]],
        law=[[word("bet"), GONE], [word("ter"), STOP]],
    )
    assert chained(models)[0] == "better"
    assert models["law"].asks[1].written == "bet"


@pytest.mark.parametrize(
    ("generation", "chain", "num_probes"),
    [
        (replace(QUESTION, max_tokens=4), {}, 1),
        (replace(QUESTION, max_tokens=3), {}, 0),
        (QUESTION, {"max_tokens": 4}, 1),
        (QUESTION, {"max_tokens": 3}, 0),
    ],
)
def test_a_further_answer_needs_room_for_one_as_long_as_the_last(
    generation: GenerationRequest, chain: dict[str, Any], num_probes: int
):
    models = playing(
        meta=[[to("chem")], chosen("law")],
        chem=[[word("a"), word("b"), STOP]],
        law=[[word("c"), word("d"), STOP]],
    )
    text, _ = chained(models, generation, chain=chain)
    assert (text, len(models[META].asks) - 1) == ("cd" if num_probes else "ab", num_probes)
    assert [ask.max_tokens for ask in models["law"].asks] == [2] * num_probes


def test_earlier_answers_are_revealed_as_reasoning_in_order():
    models = playing(
        meta=[[to("chem")], chosen("law"), chosen("weather")],
        chem=[[word("a"), STOP]],
        law=[[word("b"), STOP]],
        weather=[[ModelChunk("hm c", num_tokens=2, parts=(ReasoningPart("hm "),)), word("c"), STOP]],
    )
    chain = {"prompt": PROMPT, "reveal": True}
    deltas, _ = answer_in_parts(models, QUESTION, after_expert="chain", chain=chain)
    assert deltas == [
        ReasoningDelta("a\n\n", "chem"),
        ReasoningDelta("b\n\n", "law"),
        ReasoningDelta("hm ", "weather"),
        TextDelta("c", "weather"),
    ]


def test_a_tool_call_ends_the_chain():
    call = ModelChunk("x", num_tokens=1, parts=(ToolCallPart(0, "f", "{}"),))
    models = playing(meta=[[to("chem")], chosen("law")], chem=[[word("draft"), STOP]], law=[[call, STOP]])
    text, done = chained(models)
    assert (text, done.has_tool_calls, len(models[META].asks)) == ("", True, 2)


@pytest.mark.parametrize(
    ("generation", "script"),
    [
        (replace(QUESTION, stop=StopRule(("!",))), [word("a!"), GONE]),
        (QUESTION, [word("a"), ModelChunk(finish=Finish.STOP, stop_token=7)]),
        (replace(QUESTION, prompt=replace(QUESTION.prompt, written="So: ")), [word("a"), STOP]),
        (replace(QUESTION, routing=Routing(experts=("chem",))), [word("a"), STOP]),
        (GENERATION, [word("a"), STOP]),
    ],
)
def test_what_a_request_has_ended_or_begun_is_not_written_anew(
    generation: GenerationRequest, script: list[Item]
):
    models = playing(meta=[[to("chem")]], chem=[script])
    assert chained(models, generation)[0] == "a"


def test_the_result_of_a_tool_call_is_answered_by_its_author_alone():
    result = Message("tool", "7", tool_call_id="call_chem_1")
    prompt = Prompt(messages=(Message("user", "Why?"), Message("assistant", ""), result))
    models = playing(meta=[[to("chem")]], chem=[[word("a"), STOP]])
    assert chained(models, replace(QUESTION, prompt=prompt))[0] == "a"


def test_an_expert_that_is_asleep_and_not_waited_for_is_woken_and_not_called():
    table = expert_table()
    experts = {**table.experts, "law": table.experts["law"].model_copy(update=ASLEEP)}
    routes = FakeRoutes(ready=("chem", "weather"), starts={"law": Pause(5)})
    models = playing(meta=[[to("chem")], chosen("law")], chem=[[word("draft"), STOP]])
    assert chained(models, QUESTION, routes, experts=experts)[0] == "draft"
    assert routes.num_starts["law"] == 1


ASLEEP = {"scales_to_zero": True, "cold_start": "meta"}
PICKS = st.lists(st.integers(0, 3), max_size=8)
ENDS = st.sampled_from([STOP, STOP, STOP, FULL, GONE, ModelFailed("x")])


@given(
    picks=PICKS,
    ends=st.lists(st.tuples(st.integers(0, 4), ENDS), min_size=8, max_size=8),
    max_hops=st.integers(2, 4),
    max_handoffs=st.integers(2, 4),
    max_tokens=st.none() | st.integers(1, 12),
    budget=st.none() | st.integers(1, 12),
    failed=st.sets(st.sampled_from(EXPERTS)),
)
def test_a_chain_ends_within_its_hops_and_its_budget_whatever_is_decided(
    picks: list[int],
    ends: list[tuple[int, ModelChunk | RouterError]],
    max_hops: int,
    max_handoffs: int,
    max_tokens: int | None,
    budget: int | None,
    failed: set[str],
):
    called: list[str] = []

    def decides(ask: ModelRequest) -> list[Item]:
        expert = ask.allowed[picks.pop() % len(ask.allowed)] if picks and ask.allowed else None
        if ask.probe:
            return chosen(expert)
        return [word("m"), STOP] if expert is None else [to(expert)]

    def writes(name: str) -> Any:
        def script(ask: ModelRequest) -> Iterable[Item]:
            called.append(name)
            num, end = ends[len(called) % len(ends)]
            return [*[word(name[0])] * num, end]

        return within_budget(script)

    models = {META: FakeModel(within_budget(decides)), **{name: FakeModel(writes(name)) for name in EXPERTS}}
    routes = FakeRoutes(ready=set(EXPERTS) - failed)
    chain = {"max_hops": max_hops, "max_tokens": budget}
    generation = replace(QUESTION, max_tokens=max_tokens)
    text, done = chained(models, generation, routes, chain=chain, retries=0, max_handoffs=max_handoffs)
    authors = [*(draft[-1].model for draft in done.drafts), *(span.model for span in done.spans[-1:])]
    assert len(done.drafts) < min(max_hops, max_handoffs)
    assert len(set(authors)) == len(authors)
    assert max_tokens is None or done.num_completion_tokens <= max_tokens
    first = sum(span.num_tokens for span in (done.drafts or [done.spans])[0])
    if budget is not None and done.drafts:
        assert done.num_completion_tokens <= max(budget, first)
    assert text == "".join(span.text for span in done.spans)
