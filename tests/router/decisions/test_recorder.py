"""What is counted and logged of the decisions of an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from router.api.keys import permitted
from router.api_key import ApiKey
from router.availability import ModelState
from router.decision_log_rules import DecisionLogRules
from router.decisions import metrics as m
from router.decisions.log_lines import Line, key_label
from router.decisions.prompt_digest import messages_digest, prompt_digest
from router.decisions.recent_answers import new_answer_id
from router.decisions.recorder import DecisionRecorder, Verdict
from router.decoding.decode import Decoder
from router.decoding.delta import Delta
from router.decoding.generation import Done, GenerationRequest
from router.decoding.policy import Routing, Target, admission_context
from router.errors import ModelFailed, RouterError, UnknownAnswer
from router.model_port import ModelChunk
from router.parts import ReasoningPart, TextPart
from router.prompt import Message, Prompt
from router.routing_report import Candidates, RoutingReport, ShadowWin
from router.table import ModelEntry, RouteTable
from tests.fakes.availability import FakeRoutes
from tests.fakes.metrics import CountedMetrics, ListedLog
from tests.fakes.models import (
    EXPERTS,
    GENERATION,
    STOP,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    playing,
    to,
    word,
)

RULES = DecisionLogRules(folder="/decisions")
CANDIDATES = Candidates(math.log(0.02), (("chem", math.log(0.9)), ("law", math.log(0.05))))
TO_CHEM = replace(to("chem"), routing=RoutingReport(CANDIDATES))


@dataclass
class Recorded:
    """Answers of fakes, and what was recorded of them."""

    table: RouteTable = field(default_factory=lambda: expert_table(decision_log=RULES))
    metrics: CountedMetrics = field(default_factory=CountedMetrics)
    log: ListedLog = field(default_factory=ListedLog)
    routes: FakeRoutes = field(default_factory=FakeRoutes)
    key: ApiKey | None = None

    def __post_init__(self) -> None:
        self.recorder = DecisionRecorder(self.metrics, self.log, lambda: self.table)

    def answer(self, generation: GenerationRequest = GENERATION, **calls: Any) -> str:
        """Returns the id of the answer."""
        answer_id, table = new_answer_id("chatcmpl"), permitted(self.table, self.key)
        admission = admission_context(table, self.key.name if self.key else "")
        generation = replace(generation, request_id=f"{answer_id}-0", admission=admission)
        decoder = Decoder(table, playing(**calls), self.routes, recorder=self.recorder)
        in_virtual_time(_read(decoder, generation))
        return answer_id

    @property
    def line(self) -> Line:
        (line,) = self.log.lines
        assert json.loads(json.dumps(line)) == line
        return line


class States(FakeRoutes):
    """Every model is ready, except those in `states`."""

    def __init__(self, states: Mapping[str, ModelState]) -> None:
        super().__init__()
        self._states = states

    def state(self, name: str) -> ModelState:
        return self._states.get(name, ModelState.READY)


async def _read(decoder: Decoder, generation: GenerationRequest) -> list[Delta | Done]:
    try:
        return [item async for item in decoder.decode(generation)]
    except RouterError:
        return []


def test_a_hand_over_is_counted_with_its_margins_and_logged_without_text():
    recorded = Recorded()
    answer_id = recorded.answer(meta=[[word("It "), TO_CHEM]], chem=[[word("is "), word("H2O"), STOP]])
    assert recorded.metrics.series(m.DECISIONS) == {("chem",): 1}
    assert recorded.metrics.series(m.PROBABILITY) == {("chem",): 0.9}
    assert recorded.metrics.series(m.MARGIN) == pytest.approx(
        {("chem", "word"): math.log(45), ("chem", "expert"): math.log(18)}
    )
    assert recorded.metrics.series(m.ANSWERS) == {("stop",): 1}
    line = recorded.line
    assert {name: line[name] for name in ("kind", "id", "choice", "winner", "author", "outcome")} == {
        "kind": "decision",
        "id": answer_id,
        "choice": 0,
        "winner": "chem",
        "author": "chem",
        "outcome": "stop",
    }
    assert (line["allowed"], line["masked"], line["num_tokens"]) == ([*EXPERTS], {}, 3)
    assert line["top"] == [
        {"expert": "chem", "probability": pytest.approx(0.9)},
        {"expert": "law", "probability": pytest.approx(0.05)},
    ]
    assert line["word_probability"] == pytest.approx(0.02)
    assert line["margin"] == pytest.approx({"word": math.log(45), "expert": math.log(18)})
    assert line["prompt"] == prompt_digest(GENERATION.prompt)
    assert "text" not in line
    assert "messages" not in line


def test_an_abstention_is_a_decision_for_the_meta_with_the_candidates_of_its_start():
    recorded = Recorded()
    found = Candidates(-0.1, (("law", -3.0),))
    recorded.answer(meta=[[replace(word("Hi"), routing=RoutingReport(found)), STOP]])
    assert recorded.metrics.series(m.DECISIONS) == {("meta",): 1}
    assert recorded.metrics.series(m.MARGIN) == recorded.metrics.series(m.PROBABILITY) == {}
    assert (recorded.line["winner"], recorded.line["author"]) == (None, "meta")
    assert recorded.line["top"] == [{"expert": "law", "probability": pytest.approx(math.exp(-3.0))}]
    assert recorded.line["margin"] == {"word": None, "expert": None}


def test_experts_that_could_not_be_chosen_are_counted_with_the_reason():
    table = expert_table(
        decision_log=RULES,
        meta=ModelEntry(app="meta", window=100),
        experts={
            "chem": ModelEntry(app="chem", scales_to_zero=True, cold_start="meta"),
            "law": ModelEntry(app="law"),
            "weather": ModelEntry(app="weather", window=10),
            "music": ModelEntry(app="music"),
            "history": ModelEntry(app="history"),
            "sport": ModelEntry(app="sport"),
        },
    )
    states = {"chem": ModelState.WAKING, "law": ModelState.UNAVAILABLE, "sport": ModelState.FAILED}
    key = ApiKey(name="a", sha256="0" * 64, experts=("chem", "law", "weather", "history", "sport"))
    recorded = Recorded(table, routes=States(states), key=key)
    generation = replace(GENERATION, routing=Routing(exclude=("history",)))
    recorded.answer(generation, meta=[[ModelChunk(num_prompt_tokens=20), STOP]])
    assert recorded.metrics.series(m.MASKED) == {
        ("chem", "asleep"): 1,
        ("law", "unavailable"): 1,
        ("weather", "window"): 1,
        ("sport", "failed"): 1,
        ("*", "key"): 1,
        ("*", "excluded"): 1,
    }
    assert recorded.metrics.series(m.DECISIONS) == {}  # there was nothing to choose
    masked = {"asleep": 1, "unavailable": 1, "window": 1, "failed": 1, "key": 1, "excluded": 1}
    assert (recorded.line["masked"], recorded.line["allowed"]) == (masked, [])
    assert recorded.line["key"] == key_label("a") != "a"


def test_a_decision_that_is_taken_again_says_why():
    recorded = Recorded()
    recorded.answer(meta=[[TO_CHEM], [to("law")]], chem=[[ModelFailed("broken")]], law=[[word("x"), STOP]])
    assert recorded.metrics.series(m.REDECISIONS) == {("chem", "model_failed"): 1}
    assert recorded.metrics.series(m.DECISIONS) == {("chem",): 1, ("law",): 1}
    first, second = recorded.log.lines
    assert (first["winner"], first["redecided"], first["author"]) == ("chem", "model_failed", "law")
    assert (second["winner"], second["redecided"], second["masked"]) == ("law", None, {"failed": 1})


def test_a_retry_of_the_meta_is_no_further_decision():
    recorded = Recorded()
    recorded.answer(meta=[[word("a"), Pause()], [word("b"), to("chem")]], chem=[[STOP]])
    assert recorded.metrics.series(m.DECISIONS) == {("chem",): 1}
    assert recorded.line["position"] == 1


def test_a_shadow_is_counted_once_in_an_answer():
    table = expert_table(decision_log=RULES, shadows=("law-v2", "music"))
    recorded = Recorded(table)
    wins = RoutingReport(shadow_wins=(ShadowWin("music", None, 0.4, 1), ShadowWin("law-v2", "chem", 0.6, 1)))
    recorded.answer(
        meta=[[word("a"), replace(word("b"), routing=wins), Pause()], [replace(TO_CHEM, routing=wins)]],
        chem=[[STOP]],
    )
    assert recorded.metrics.series(m.SHADOW_DECISIONS) == {("law-v2",): 1, ("music",): 1}
    assert recorded.metrics.series(m.SHADOW_WINS) == {("music", "meta"): 1, ("law-v2", "chem"): 1}
    assert recorded.metrics.series(m.SHADOW_PROBABILITY) == {("music",): 0.4, ("law-v2",): 0.6}
    assert recorded.line["scored_shadows"] == ["law-v2", "music"]
    assert recorded.line["shadows"] == [
        {"expert": "music", "probability": 0.4, "over": "meta", "position": 1},
        {"expert": "law-v2", "probability": 0.6, "over": "chem", "position": 1},
    ]


@pytest.mark.parametrize(
    ("routing", "key", "scored"),
    [
        (Routing(), None, ("music",)),
        (Routing(exclude=("law",)), None, ("music",)),
        (Routing(experts=("law",)), None, ()),
        (Routing(), ("law",), ()),
        (Routing(), ("law", "music"), ("music",)),
    ],
)
def test_a_shadow_is_scored_where_it_might_be_an_expert(routing, key, scored):
    recorded = Recorded(expert_table(shadows=("music",)))
    if key is not None:
        recorded.key = ApiKey(name="a", sha256="0" * 64, experts=key)
    recorded.answer(replace(GENERATION, routing=routing), meta=[[STOP]])
    assert recorded.metrics.series(m.SHADOW_DECISIONS) == {(name,): 1 for name in scored}


def test_tokens_are_counted_by_model_and_hashed_key_and_thoughts_apart():
    recorded = Recorded(key=ApiKey(name="a", sha256="0" * 64))
    thought = ModelChunk("hm", num_tokens=2, num_prompt_tokens=7, parts=(ReasoningPart("hm"),))
    text = ModelChunk("ok", num_tokens=3, parts=(TextPart("ok"),))
    recorded.answer(meta=[[thought, text, STOP]])
    tags = ("meta", key_label("a"))
    assert recorded.metrics.series(m.PROMPT_TOKENS) == {tags: 7}
    assert recorded.metrics.series(m.COMPLETION_TOKENS) == {tags: 5}
    assert recorded.metrics.series(m.HIDDEN_TOKENS) == {tags: 2}


def test_a_failed_answer_has_the_code_of_its_error():
    recorded = Recorded()
    calls: list[list[Item]] = [[ModelFailed("broken")]]
    recorded.answer(meta=calls)
    assert recorded.metrics.series(m.ANSWERS) == {("model_failed",): 1}
    assert recorded.line["outcome"] == "model_failed"


def test_a_client_that_leaves_is_no_error():
    recorded = Recorded()
    fakes = playing(meta=[[word("a"), word("b"), STOP]])
    decoder = Decoder(recorded.table, fakes, FakeRoutes(), recorder=recorded.recorder)

    async def leave() -> None:
        stream = decoder.decode(GENERATION)
        await anext(stream)
        await stream.aclose()

    in_virtual_time(leave())
    assert recorded.metrics.series(m.ANSWERS) == {("cancelled",): 1}


def test_a_model_that_is_addressed_decides_nothing():
    recorded = Recorded()
    recorded.answer(replace(GENERATION, target=Target("chem", routed=False)), chem=[[word("x"), STOP]])
    assert recorded.log.lines == []
    assert recorded.metrics.series(m.DECISIONS) == {}


def test_a_large_allowed_set_is_written_as_its_digest():
    names = [f"e{i}" for i in range(1000)]
    recorded = Recorded(expert_table(decision_log=RULES, experts={n: ModelEntry(app="law") for n in names}))
    recorded.routes = States({})
    recorded.answer(meta=[[STOP]])
    assert recorded.line["allowed"] == {"num": 1000, "digest": recorded.line["allowed"]["digest"]}
    assert len(json.dumps(recorded.line)) < 1000


def test_prompts_are_logged_only_if_the_operator_wants_them():
    rules = RULES.model_copy(update={"text": True})
    recorded = Recorded(expert_table(decision_log=rules))
    messages = (Message("user", "What is H2O?"),)
    recorded.answer(replace(GENERATION, prompt=Prompt(messages)), meta=[[STOP]])
    assert recorded.line["messages"] == [{"role": "user", "content": "What is H2O?"}]
    assert recorded.line["prompt"] == messages_digest(recorded.line["messages"])


def test_nothing_is_logged_without_rules():
    recorded = Recorded(expert_table())
    recorded.answer(meta=[[STOP]])
    assert recorded.log.lines == []


@pytest.mark.parametrize(
    ("target", "right_expert", "verdict"),
    [
        ("chem", "chem", Verdict.RIGHT),
        (None, None, Verdict.RIGHT),
        ("chem", None, Verdict.FALSE_TRIGGER),
        (None, "law", Verdict.MISSED),
        ("chem", "law", Verdict.WRONG_EXPERT),
    ],
)
def test_feedback_is_judged_and_joins_the_log(target, right_expert, verdict):
    recorded = Recorded()
    answer_id = recorded.answer(meta=[[TO_CHEM if target else STOP]], chem=[[STOP]])
    assert recorded.recorder.feedback(answer_id, right_expert, "") == (verdict, True)
    assert recorded.metrics.series(m.FEEDBACK) == {(target or "meta", verdict.value): 1}
    line = recorded.log.lines[-1]
    assert (line["kind"], line["id"], line["right_expert"], line["target"]) == (
        "feedback",
        answer_id,
        right_expert,
        target,
    )


def test_feedback_on_an_answer_of_another_router_is_accepted():
    recorded = Recorded()
    answer_id = f"chatcmpl-{'0' * 32}"
    assert recorded.recorder.feedback(answer_id, "law", "") == (Verdict.UNKNOWN, True)
    assert "target" not in recorded.log.lines[-1]
    assert recorded.metrics.series(m.FEEDBACK) == {("unknown", "unknown"): 1}


@pytest.mark.parametrize(
    "answer_id",
    ["", "x", "chatcmpl-1", "route-" + "0" * 32, pytest.param(new_answer_id("cmpl"), id="forgotten")],
)
def test_feedback_on_an_id_that_cannot_be_an_answers_is_refused(answer_id):
    with pytest.raises(UnknownAnswer):
        Recorded().recorder.feedback(answer_id, None, "")


def test_feedback_on_an_answer_to_another_key_is_refused():
    recorded = Recorded(key=ApiKey(name="a", sha256="0" * 64))
    answer_id = recorded.answer(meta=[[STOP]])
    with pytest.raises(UnknownAnswer):
        recorded.recorder.feedback(answer_id, None, "b")
    assert recorded.recorder.feedback(answer_id, None, "a")[0] is Verdict.RIGHT
