"""Which experts may be reached, and how an answer recovers from a failure."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from router.api.keys import permitted
from router.api_key import ApiKey
from router.availability import ModelState
from router.decoding.generation import GenerationRequest
from router.decoding.policy import Recovery, Routing, Target, after_failure, resolve, select_experts
from router.decoding.transcript import StopRule
from router.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    ModelOverloaded,
    ModelStalled,
    ModelUnavailable,
    RouterError,
    UnknownModel,
)
from router.model_port import Finish, ModelChunk
from router.table import META, ModelEntry
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    DIRECT,
    EXPERTS,
    GENERATION,
    GONE,
    STOP,
    Item,
    Pause,
    expert_table,
    num_calls,
    playing,
    to,
    word,
)
from tests.support.answering import answer

NAMES = st.lists(st.sampled_from(EXPERTS))


def allowed(routing: Routing | None = None, **changes: Any) -> tuple[str, ...]:
    state = {"state_of": FakeRoutes().state, "masked": (), "num_handoffs": 0, **changes}
    table = state.pop("table", expert_table())
    selection = select_experts(table, routing or Routing(), **state)
    assert {*selection.allowed} | selection.masked.keys() == table.experts.keys()
    return selection.allowed


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (None, Target(META, routed=True)),
        ("g", Target(META, routed=True)),
        ("g/meta", Target(META, routed=False)),
        ("g/chem", Target("chem", routed=False)),
    ],
)
def test_the_model_name_selects_the_first_model(model: str | None, target: Target):
    assert resolve(expert_table(), model, Routing()) == target


def test_a_forced_expert_answers_without_the_meta():
    assert resolve(expert_table(), "g", Routing(force="law")) == Target("law", routed=False)


@pytest.mark.parametrize("model", ["", "chem", "g/", "g/physics", "G", "h/chem", "g/g/chem"])
def test_an_unknown_model_is_refused_with_the_available_names(model: str):
    with pytest.raises(UnknownModel, match="available: g, g/meta, g/chem, g/law, g/weather"):
        resolve(expert_table(), model, Routing())


def test_an_alias_stands_for_a_model():
    table = expert_table(aliases={"gpt-4o": "g", "claude/opus": "g/law"})
    assert resolve(table, "gpt-4o", Routing()) == Target("meta", routed=True)
    assert resolve(table, "claude/opus", Routing()) == Target("law", routed=False)
    assert table.model_ids[-2:] == ["gpt-4o", "claude/opus"]


def test_an_alias_of_an_expert_that_a_key_may_not_reach_does_not_exist():
    table = expert_table(aliases={"claude/opus": "g/law"})
    reachable = permitted(table, ApiKey(name="a", sha256="0" * 64, experts=("chem",)))
    assert "claude/opus" not in reachable.model_ids
    with pytest.raises(
        UnknownModel, match="model 'claude/opus' does not exist; available: g, g/meta, g/chem$"
    ):
        resolve(reachable, "claude/opus", Routing())


@pytest.mark.parametrize(
    ("routing", "param"),
    [
        (Routing(experts=("chem", "unknown")), "routing.experts"),
        (Routing(exclude=("unknown",)), "routing.exclude"),
        (Routing(bias={"unknown": 1.0}), "routing.bias"),
        (Routing(force="unknown"), "routing.force"),
        (Routing(force=""), "routing.force"),
        (Routing(force=META), "routing.force"),
    ],
)
def test_an_unknown_expert_is_refused_with_the_option_that_names_it(routing: Routing, param: str):
    with pytest.raises(InvalidRequest, match="experts: chem, law, weather") as caught:
        resolve(expert_table(), "g", routing)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "others", [{"experts": ("law",)}, {"exclude": ("chem",)}, {"bias": {"chem": 1.0}}, {"call_bias": 1.0}]
)
def test_routing_options_without_effect_are_refused(others: dict[str, Any]):
    with pytest.raises(InvalidRequest, match="leaves no choice"):
        resolve(expert_table(), "g", Routing(force="chem", **others))
    for model in ("g/chem", "g/meta"):
        with pytest.raises(InvalidRequest, match="take effect only with model 'g'"):
            resolve(expert_table(), model, Routing(**others))


def test_no_expert_may_be_named_meta():
    with pytest.raises(ValidationError, match="another name"):
        expert_table(experts={"meta": ModelEntry(app="impostor")})


def test_an_empty_list_of_experts_allows_none():
    assert allowed(Routing(experts=())) == ()
    assert allowed(Routing(experts=None)) == EXPERTS


@pytest.mark.parametrize(
    ("state", "cold_start", "is_allowed"),
    [
        (ModelState.READY, "wait", True),
        (ModelState.READY, "meta", True),
        (ModelState.ASLEEP, "wait", True),
        (ModelState.ASLEEP, "meta", True),
        (ModelState.WAKING, "wait", True),
        (ModelState.WAKING, "meta", False),
        (ModelState.MASKED, "wait", False),
        (ModelState.MASKED, "meta", False),
    ],
)
def test_an_expert_that_is_starting_is_not_allowed_if_the_meta_answers_meanwhile(
    state: ModelState, cold_start: Literal["wait", "meta"], is_allowed: bool
):
    table = expert_table(experts={"chem": ModelEntry(app="c", scales_to_zero=True, cold_start=cold_start)})
    assert allowed(table=table, state_of=lambda name: state) == (("chem",) if is_allowed else ())


@pytest.mark.parametrize(("num_handoffs", "expected"), [(0, EXPERTS), (1, EXPERTS), (2, ()), (3, ())])
def test_no_expert_is_allowed_once_the_hand_overs_are_used_up(num_handoffs: int, expected: tuple[str, ...]):
    assert allowed(table=expert_table(max_handoffs=2), num_handoffs=num_handoffs) == expected


@given(
    st.none() | NAMES, NAMES, NAMES, st.fixed_dictionaries({n: st.sampled_from(ModelState) for n in EXPERTS})
)
def test_the_allowed_set_is_an_intersection(
    wanted: list[str] | None, exclude: list[str], masked: list[str], states: dict[str, ModelState]
):
    routing = Routing(experts=None if wanted is None else tuple(wanted), exclude=tuple(exclude))
    names = allowed(routing, state_of=states.__getitem__, masked=masked)
    not_callable = (ModelState.MASKED, ModelState.UNAVAILABLE, ModelState.FAILED)
    reachable = {name for name in EXPERTS if states[name] not in not_callable} - {*exclude, *masked}
    assert set(names) == (reachable if wanted is None else reachable & set(wanted))
    assert list(names) == sorted(names), "each once, in the order of the table"


@pytest.mark.parametrize("error", [ModelUnavailable("x"), ModelStalled("x"), ModelOverloaded("x")])
@pytest.mark.parametrize(
    ("may_retry", "is_expert", "routed", "recovery"),
    [
        (True, True, True, Recovery.RETRY),
        (True, False, True, Recovery.RETRY),
        (False, True, True, Recovery.REDECIDE),
        (False, False, True, Recovery.FAIL),
        (True, True, False, Recovery.RETRY),
        (False, True, False, Recovery.FAIL),
    ],
)
def test_a_lost_busy_or_late_replica_is_retried_and_then_the_meta_decides_again(
    error: RouterError, may_retry: bool, is_expert: bool, routed: bool, recovery: Recovery
):
    assert after_failure(error, is_expert=is_expert, routed=routed, may_retry=may_retry) is recovery


@pytest.mark.parametrize("error", [ModelFailed("x"), ContextLengthExceeded("x"), InvalidRequest("x")])
@pytest.mark.parametrize(
    ("is_expert", "routed", "recovery"),
    [(True, True, Recovery.REDECIDE), (True, False, Recovery.FAIL), (False, True, Recovery.FAIL)],
)
def test_an_error_that_would_occur_again_is_never_retried(
    error: RouterError, is_expert: bool, routed: bool, recovery: Recovery
):
    assert after_failure(error, is_expert=is_expert, routed=routed, may_retry=True) is recovery


@given(st.booleans(), st.booleans(), st.booleans())
def test_an_answer_fails_at_the_end_of_its_total_time(is_expert: bool, routed: bool, may_retry: bool):
    late = DeadlineExceeded("x")
    assert after_failure(late, is_expert=is_expert, routed=routed, may_retry=may_retry) is Recovery.FAIL


@pytest.mark.parametrize(
    ("routing", "ready", "allowed", "bias"),
    [
        (Routing(), EXPERTS, EXPERTS, dict.fromkeys(EXPERTS, 0.5)),
        (Routing(), ["law"], ("law",), {"law": 0.5}),
        (Routing(experts=("chem",)), EXPERTS, ("chem",), {"chem": 0.5}),
        (Routing(exclude=("chem", "weather"), bias={"chem": 9.0}), EXPERTS, ("law",), {"law": 0.5}),
        (Routing(call_bias=-0.5, bias={"law": 2.0}), EXPERTS, EXPERTS, {"law": 2.0}),
    ],
)
def test_the_meta_gets_the_allowed_experts_and_their_biases(
    routing: Routing, ready: Collection[str], allowed: tuple[str, ...], bias: dict[str, float]
):
    models = playing(meta=[[STOP]])
    answer(models, replace(GENERATION, routing=routing), FakeRoutes(ready), call_bias=0.5)
    assert (models[META].asks[0].allowed, models[META].asks[0].bias) == (allowed, bias)


def test_a_model_addressed_by_name_neither_hands_over_nor_returns_control():
    models = playing(meta=[[word("a"), STOP]], chem=[[word("b"), STOP]])
    assert answer(models, replace(GENERATION, target=Target(META, routed=False)))[0] == "a"
    assert answer(models, DIRECT, FakeRoutes(ready=()), after_expert="return")[0] == "b"
    assert models[META].asks[0].allowed == ()


@pytest.mark.parametrize("name", ["law", "unknown", None])
def test_a_hand_over_to_an_expert_that_is_not_allowed_is_an_error(name: str | None):
    models = playing(meta=[[word("a"), to(name)]])
    with pytest.raises(ModelFailed, match="not in the allowed set"):
        answer(models, replace(GENERATION, routing=Routing(exclude=("law",))))
    assert num_calls(models) == {META: 1}


@pytest.mark.parametrize("fault", [[GONE], [], [ModelChunk(finish=Finish.CANCELLED)], [Pause()]])
def test_another_replica_resumes_from_all_the_text_received(fault: list[Item]):
    chem: list[list[Item]] = [[word("b<e"), *fault], [word("c"), STOP]]
    models = playing(meta=[[word("a"), to("chem")]], chem=chem)
    text, done = answer(models, replace(GENERATION, max_tokens=9, stop=StopRule(("<end>",))))
    assert (text, done.num_completion_tokens, [s.model for s in done.spans]) == ("ab<ec", 3, ["meta", "chem"])
    again = models["chem"].asks[1]
    assert (again.written, again.position, again.max_tokens) == ("ab<e", 2, 7)


@pytest.mark.parametrize(
    ("fault", "num_tries"),
    [(GONE, 2), (ModelFailed("bug"), 1), (ContextLengthExceeded("long"), 1), (to("law"), 1)],
)
def test_an_expert_that_failed_is_masked_and_the_next_best_one_is_reached(fault: Item, num_tries: int):
    meta = [[word("a"), to("chem")], [to("law")]]
    models = playing(meta=meta, chem=[[word("b"), fault], [fault]], law=[[word("c"), STOP]])
    text, done = answer(models, max_handoffs=1)
    assert (text, [s.model for s in done.spans]) == ("abc", ["meta", "chem", "law"])
    assert num_calls(models) == {META: 2, "chem": num_tries, "law": 1}
    again = models[META].asks[1]
    assert (again.written, again.position, again.allowed) == ("ab", 2, ("law", "weather"))


@pytest.mark.parametrize(
    "generation", [GENERATION, DIRECT, replace(GENERATION, target=Target(META, routed=False))]
)
@pytest.mark.parametrize(
    ("fault", "num_tries"), [(GONE, 3), (ModelFailed("bug"), 1), (ContextLengthExceeded("x"), 1)]
)
def test_the_client_gets_the_error_of_the_meta_or_of_a_model_addressed_by_name(
    generation: GenerationRequest, fault: RouterError, num_tries: int
):
    models = playing(**{generation.target.writer: [[fault]] * 3})
    with pytest.raises(type(fault)):
        answer(models, generation, retries=2)
    assert num_calls(models) == {generation.target.writer: num_tries}
