"""Which experts may be reached, and what follows a failure."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

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
from router.job import Job
from router.model import Finish, Piece
from router.policy import Recovery, Routing, Target, after_failure, allowed_experts, resolve
from router.routes import State
from router.table import META, ModelEntry
from tests.answering import answer
from tests.fake_routes import FakeRoutes
from tests.fakes import (
    DIRECT,
    EXPERTS,
    GONE,
    JOB,
    STOP,
    Item,
    Pause,
    expert_table,
    num_calls,
    playing,
    to,
    word,
)

NAMES = st.lists(st.sampled_from(EXPERTS))


def allowed(routing: Routing | None = None, **changes: Any) -> tuple[str, ...]:
    state = {"state_of": FakeRoutes().state, "masked": (), "num_handoffs": 0, **changes}
    return allowed_experts(state.pop("table", expert_table()), routing or Routing(), **state)


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (None, Target(META, routed=True)),
        ("g", Target(META, routed=True)),
        ("g/meta", Target(META, routed=False)),
        ("g/chem", Target("chem", routed=False)),
    ],
)
def test_a_model_name_says_who_is_asked_first(model: str | None, target: Target):
    assert resolve(expert_table(), model, Routing()) == target


def test_a_forced_expert_writes_without_the_meta():
    assert resolve(expert_table(), "g", Routing(force="law")) == Target("law", routed=False)


@pytest.mark.parametrize("model", ["", "chem", "g/", "g/physics", "G", "h/chem", "g/g/chem"])
def test_an_unknown_model_is_refused_with_the_names_there_are(model: str):
    with pytest.raises(UnknownModel, match="available: g, g/meta, g/chem, g/law, g/weather"):
        resolve(expert_table(), model, Routing())


@pytest.mark.parametrize(
    ("routing", "param"),
    [
        (Routing(experts=("chem", "nobody")), "routing.experts"),
        (Routing(exclude=("nobody",)), "routing.exclude"),
        (Routing(bias={"nobody": 1.0}), "routing.bias"),
        (Routing(force="nobody"), "routing.force"),
        (Routing(force=""), "routing.force"),
        (Routing(force=META), "routing.force"),
    ],
)
def test_an_unknown_expert_is_refused_by_the_option_that_names_it(routing: Routing, param: str):
    with pytest.raises(InvalidRequest, match="experts: chem, law, weather") as caught:
        resolve(expert_table(), "g", routing)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "others", [{"experts": ("law",)}, {"exclude": ("chem",)}, {"bias": {"chem": 1.0}}, {"call_bias": 1.0}]
)
def test_options_that_cannot_take_effect_are_refused(others: dict[str, Any]):
    with pytest.raises(InvalidRequest, match="leaves no choice"):
        resolve(expert_table(), "g", Routing(force="chem", **others))
    for model in ("g/chem", "g/meta"):
        with pytest.raises(InvalidRequest, match="take effect only with model 'g'"):
            resolve(expert_table(), model, Routing(**others))


def test_no_expert_may_be_named_meta():
    with pytest.raises(ValidationError, match="another name"):
        expert_table(experts={"meta": ModelEntry(app="impostor")})


def test_an_empty_allow_list_allows_nobody():
    assert allowed(Routing(experts=())) == ()
    assert allowed(Routing(experts=None)) == EXPERTS


@pytest.mark.parametrize(
    ("state", "cold_start", "is_allowed"),
    [
        (State.READY, "wait", True),
        (State.READY, "meta", True),
        (State.ASLEEP, "wait", True),
        (State.ASLEEP, "meta", True),
        (State.WAKING, "wait", True),
        (State.WAKING, "meta", False),
        (State.MASKED, "wait", False),
        (State.MASKED, "meta", False),
    ],
)
def test_a_sleeper_may_be_called_for_but_not_twice_where_the_meta_answers_meanwhile(
    state: State, cold_start: Literal["wait", "meta"], is_allowed: bool
):
    table = expert_table(experts={"chem": ModelEntry(app="c", wakes=True, cold_start=cold_start)})
    assert allowed(table=table, state_of=lambda name: state) == (("chem",) if is_allowed else ())


@pytest.mark.parametrize(("num_handoffs", "expected"), [(0, EXPERTS), (1, EXPERTS), (2, ()), (3, ())])
def test_nobody_is_allowed_once_the_handoffs_are_used_up(num_handoffs: int, expected: tuple[str, ...]):
    assert allowed(table=expert_table(max_handoffs=2), num_handoffs=num_handoffs) == expected


@given(st.none() | NAMES, NAMES, NAMES, st.fixed_dictionaries({n: st.sampled_from(State) for n in EXPERTS}))
def test_the_allowed_set_is_an_intersection(
    wanted: list[str] | None, exclude: list[str], masked: list[str], states: dict[str, State]
):
    routing = Routing(experts=None if wanted is None else tuple(wanted), exclude=tuple(exclude))
    names = allowed(routing, state_of=states.__getitem__, masked=masked)
    closed = (State.MASKED, State.AWAY, State.FAILED)
    reachable = {name for name in EXPERTS if states[name] not in closed} - {*exclude, *masked}
    assert set(names) == (reachable if wanted is None else reachable & set(wanted))
    assert list(names) == sorted(names), "each once and in the table's order, however the request lists them"


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
def test_a_replica_that_is_gone_busy_or_late_is_replaced_while_that_may_help(
    error: RouterError, may_retry: bool, is_expert: bool, routed: bool, recovery: Recovery
):
    assert after_failure(error, is_expert=is_expert, routed=routed, may_retry=may_retry) is recovery


@pytest.mark.parametrize("error", [ModelFailed("x"), ContextLengthExceeded("x"), InvalidRequest("x")])
@pytest.mark.parametrize(
    ("is_expert", "routed", "recovery"),
    [(True, True, Recovery.REDECIDE), (True, False, Recovery.FAIL), (False, True, Recovery.FAIL)],
)
def test_what_would_fail_everywhere_is_never_retried(
    error: RouterError, is_expert: bool, routed: bool, recovery: Recovery
):
    assert after_failure(error, is_expert=is_expert, routed=routed, may_retry=True) is recovery


@given(st.booleans(), st.booleans(), st.booleans())
def test_nothing_follows_the_end_of_the_total_time(is_expert: bool, routed: bool, may_retry: bool):
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
def test_the_meta_is_told_whom_it_may_call_and_how_gladly(
    routing: Routing, ready: Collection[str], allowed: tuple[str, ...], bias: dict[str, float]
):
    models = playing(meta=[[STOP]])
    answer(models, replace(JOB, routing=routing), FakeRoutes(ready), call_bias=0.5)
    assert (models[META].asks[0].allowed, models[META].asks[0].bias) == (allowed, bias)


def test_a_model_addressed_by_name_neither_hands_over_nor_returns_the_pen():
    models = playing(meta=[[word("a"), STOP]], chem=[[word("b"), STOP]])
    assert answer(models, replace(JOB, target=Target(META, routed=False)))[0] == "a"
    assert answer(models, DIRECT, FakeRoutes(ready=()), after_expert="return")[0] == "b"
    assert models[META].asks[0].allowed == ()


@pytest.mark.parametrize("name", ["law", "nobody", None])
def test_a_handover_to_somebody_not_allowed_is_refused(name: str | None):
    models = playing(meta=[[word("a"), to(name)]])
    with pytest.raises(ModelFailed, match="unasked"):
        answer(models, replace(JOB, routing=Routing(exclude=("law",))))
    assert num_calls(models) == {META: 1}


@pytest.mark.parametrize("fault", [[GONE], [], [Piece(finish=Finish.CANCELLED)], [Pause()]])
def test_another_replica_goes_on_from_all_the_text_received(fault: list[Item]):
    chem: list[list[Item]] = [[word("b<e"), *fault], [word("c"), STOP]]
    models = playing(meta=[[word("a"), to("chem")]], chem=chem)
    text, done = answer(models, replace(JOB, max_tokens=9, stop=("<end>",)))
    assert (text, done.num_completion_tokens, [s.model for s in done.spans]) == ("ab<ec", 3, ["meta", "chem"])
    again = models["chem"].asks[1]
    assert (again.written, again.position, again.max_tokens) == ("ab<e", 2, 7)


@pytest.mark.parametrize(
    ("fault", "num_tries"),
    [(GONE, 2), (ModelFailed("bug"), 1), (ContextLengthExceeded("long"), 1), (to("law"), 1)],
)
def test_an_expert_given_up_is_masked_and_the_next_best_is_still_reached(fault: Item, num_tries: int):
    meta = [[word("a"), to("chem")], [to("law")]]
    models = playing(meta=meta, chem=[[word("b"), fault], [fault]], law=[[word("c"), STOP]])
    text, done = answer(models, max_handoffs=1)
    assert (text, [s.model for s in done.spans]) == ("abc", ["meta", "chem", "law"])
    assert num_calls(models) == {META: 2, "chem": num_tries, "law": 1}
    again = models[META].asks[1]
    assert (again.written, again.position, again.allowed) == ("ab", 2, ("law", "weather"))


@pytest.mark.parametrize("job", [JOB, DIRECT, replace(JOB, target=Target(META, routed=False))])
@pytest.mark.parametrize(
    ("fault", "num_tries"), [(GONE, 3), (ModelFailed("bug"), 1), (ContextLengthExceeded("x"), 1)]
)
def test_a_failure_of_the_meta_or_of_a_model_addressed_by_name_surfaces(
    job: Job, fault: RouterError, num_tries: int
):
    models = playing(**{job.target.writer: [[fault]] * 3})
    with pytest.raises(type(fault)):
        answer(models, job, retries=2)
    assert num_calls(models) == {job.target.writer: num_tries}
