"""A planner, a caller and a summariser write one answer, with a tool of the client between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from router.decoding.generation import GenerationRequest
from router.decoding.policy import Target
from router.model_port import ModelChunk
from router.parts import ToolCallPart
from router.prompt import Message, Prompt, ToolCall
from router.sampling import Grammar, GrammarKind, Sampling, SamplingOptions
from router.table import META
from tests.fakes.models import EXPERTS, GENERATION, STOP, expert_table, playing, to, word
from tests.router.decoding.test_parts import TOOLS
from tests.support.answering import answer, answer_in_parts

NAMES = {"planner": "chem", "caller": "law", "summariser": "weather"}
USER = Message("user", "Do I need an umbrella?")
CALL = ModelChunk("<call>", num_tokens=1, parts=(ToolCallPart(0, "forecast", "{}"),))
ASKED = replace(GENERATION, prompt=Prompt(messages=(USER,), options=TOOLS))


def pipeline(meta: Any, **experts: Any) -> Any:
    return playing(meta=meta, **{NAMES[name]: scripts for name, scripts in experts.items()})


def with_result() -> GenerationRequest:
    call = ToolCall("call_law_1", "forecast", "{}")
    turn = Message("assistant", "Plan.", tool_calls=(call,))
    result = Message("tool", "rain", tool_call_id=call.id)
    prompt = Prompt(messages=(USER, turn, result), options=TOOLS)
    return replace(ASKED, prompt=prompt, target=Target("law", routed=True))


def test_the_caller_takes_over_from_the_planner_and_its_call_ends_the_answer():
    models = pipeline([[to("chem")], [to("law")]], planner=[[word("Plan."), STOP]], caller=[[CALL, STOP]])
    _, done = answer_in_parts(models, ASKED, after_expert="return")
    assert done.has_tool_calls
    assert [(ask.allowed, ask.only_at_start) for ask in models[META].asks] == [(EXPERTS, True)] * 2
    assert models["law"].asks[0].written == "Plan."


def test_the_result_goes_to_the_caller_and_the_summariser_ends_the_answer():
    models = pipeline(
        [[to("weather")], [STOP]], caller=[[word("Rain. "), STOP]], summariser=[[word("Take one."), STOP]]
    )
    text, done = answer(models, with_result(), after_expert="return")
    assert (text, [span.model for span in done.spans]) == ("Rain. Take one.", ["law", "weather"])


def test_once_the_meta_has_written_words_no_expert_takes_over():
    models = pipeline([[to("chem")], [word("m"), STOP]], planner=[[word("Plan."), STOP]])
    assert answer(models, ASKED, after_expert="return")[0] == "Plan.m"
    assert all(ask.only_at_start for ask in models[META].asks)


def test_neither_a_grammar_nor_a_decision_at_the_start_alone_lets_another_expert_go_on():
    grammar = Sampling(options=SamplingOptions(grammar=Grammar(GrammarKind.JSON_OBJECT)))
    start: dict[str, Any] = {"when": "start"}
    for asked, changes in ((replace(ASKED, sampling=grammar), {}), (ASKED, start)):
        models = pipeline([[to("chem")], [STOP]], planner=[[word("Plan."), STOP]])
        answer(models, asked, after_expert="return", **changes)
        assert [ask.allowed for ask in models[META].asks] == [EXPERTS, ()]


def test_hand_overs_between_experts_are_limited():
    models = pipeline([[to("chem")], [STOP]], planner=[[word("Plan."), STOP]])
    answer(models, ASKED, after_expert="return", max_handoffs=1)
    assert [ask.allowed for ask in models[META].asks] == [tuple(expert_table().experts), ()]
