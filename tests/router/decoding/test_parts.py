"""Thoughts, tool calls and log-probabilities on their way through an answer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decoding.delta import Delta, PromptDelta, ReasoningDelta, TextDelta, ToolCallDelta
from router.decoding.transcript import StopRule, author_of_call, new_call_id
from router.errors import ModelUnavailable
from router.model_port import ModelChunk, Resumed
from router.parts import Part, ReasoningPart, TextPart, TokenLogprobs, ToolCallPart
from router.prompt import ChatOptions, Prompt
from router.sampling import Grammar, GrammarKind, Sampling, SamplingOptions
from tests.fakes.models import DIRECT, GENERATION, GONE, STOP, FakeModel, playing, to, turns, word
from tests.support.answering import answer, answer_in_parts

TOOLS = ChatOptions(tools=({"type": "function", "function": {"name": "weather"}},))
WITH_TOOLS = replace(GENERATION, prompt=Prompt(text="q", options=TOOLS))
WITH_GRAMMAR = replace(
    GENERATION, sampling=Sampling(options=SamplingOptions(grammar=Grammar(GrammarKind.JSON_OBJECT)))
)
PARTS = st.one_of(
    st.builds(TextPart, st.text("aé", max_size=3)),
    st.builds(ReasoningPart, st.text("bü", max_size=3)),
    st.builds(ToolCallPart, st.integers(0, 2), st.none(), st.text("{}", max_size=3)),
)


def writes_parts(
    raw: str, *parts: Part, ids: tuple[int, ...] = (1,), tokenizer: str | None = "t"
) -> ModelChunk:
    return ModelChunk(raw, num_tokens=len(ids), ids=ids, parts=parts, tokenizer=tokenizer)


def tokens(*texts: str) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(text, text.encode(), -0.5) for text in texts)


def seen(deltas: list[Delta]) -> dict[Any, str]:
    """What each field holds in the end: the text, the thoughts, and the arguments of each call."""
    fields: defaultdict[Any, str] = defaultdict(str)
    for delta in deltas:
        match delta:
            case TextDelta():
                fields["text"] += delta.text
            case ReasoningDelta():
                fields["reasoning"] += delta.text
            case ToolCallDelta():
                fields[delta.index] += delta.arguments
    return {field: text for field, text in fields.items() if text}


def test_thoughts_and_calls_reach_the_client_beside_the_text():
    call = writes_parts("<call>", ToolCallPart(0, "weather", "{"), ToolCallPart(0, arguments="}"))
    models = playing(
        meta=[[writes_parts("<think>hm</think>It", ReasoningPart("hm"), TextPart("It")), call, STOP]]
    )
    deltas, done = answer_in_parts(models)
    assert [type(delta) for delta in deltas] == [ReasoningDelta, TextDelta, ToolCallDelta, ToolCallDelta]
    assert seen(deltas) == {"reasoning": "hm", "text": "It", 0: "{}"}
    assert done.has_tool_calls
    assert [span.text for span in done.spans] == ["It"]


def test_the_id_of_a_call_names_the_model_that_made_it():
    models = playing(meta=[[to("chem")]], chem=[[writes_parts("<call>", ToolCallPart(0, "weather")), STOP]])
    [call], _ = answer_in_parts(models)
    assert isinstance(call, ToolCallDelta)
    assert author_of_call(call.id or "") == "chem"


@pytest.mark.parametrize("model", ["meta", "a_b", "law-2"])
def test_the_author_of_a_call_is_read_back_from_its_id(model: str):
    assert author_of_call(new_call_id(model)) == model


@pytest.mark.parametrize("call_id", ["", "call_", "call_1", "call__1", "chatcmpl-tool-9", "x_chem_1"])
def test_other_ids_name_no_author(call_id: str):
    assert author_of_call(call_id) is None


def test_the_next_model_finds_the_text_without_the_thoughts():
    thought = writes_parts("<think>hm</think>It is ", ReasoningPart("hm"), TextPart("It is "))
    models = playing(meta=[[thought, to("chem")]], chem=[[word("H2O"), STOP]])
    assert answer(models)[0] == "It is H2O"
    assert models["chem"].asks[0].written == "It is "


def test_a_model_resumes_from_everything_that_it_wrote_itself():
    thought = writes_parts("<think>hm</think>", ReasoningPart("hm"), ids=(1, 2))
    models = playing(
        meta=[[word("So: "), to("chem")]],
        chem=[
            [thought, writes_parts("H<", TextPart("H"), ids=(3, 4), tokenizer=None), GONE],
            [word("2"), STOP],
        ],
    )
    assert answer(models)[0] == "So: H2"
    again = models["chem"].asks[1]
    assert (again.written, again.resumed) == ("So: ", Resumed("<think>hm</think>H<", (1, 2, 3, 4), "t"))


def test_a_call_ends_the_answer_even_if_experts_return():
    models = playing(meta=[[to("chem")]], chem=[[writes_parts("<call>", ToolCallPart(0, "weather")), STOP]])
    _, done = answer_in_parts(models, after_expert="return")
    assert (done.finish, len(models["meta"].asks)) == ("stop", 1)


@pytest.mark.parametrize("generation", [WITH_TOOLS, WITH_GRAMMAR])
def test_with_tools_or_a_grammar_the_meta_decides_before_its_first_token_only(generation):
    models = playing(meta=[[word("a"), GONE], [word("b"), STOP]])
    with pytest.raises(ModelUnavailable):  # without ids, the state of the form is lost
        answer(models, generation)
    [ask] = models["meta"].asks
    assert ask.only_at_start
    assert ask.allowed


def test_tools_that_must_not_be_called_leave_the_decision_free():
    prompt = Prompt(text="q", options=replace(TOOLS, tool_choice="none"))
    models = playing(meta=[[word("a"), STOP]])
    answer(models, replace(GENERATION, prompt=prompt))
    assert not models["meta"].asks[0].only_at_start


def test_a_form_is_continued_by_the_same_model_from_its_own_tokens():
    begun = ModelChunk("{", num_tokens=1, ids=(7,), tokenizer="t")
    models = playing(meta=[[to("chem")]], chem=[[begun, GONE], [word("}"), STOP]])
    assert answer(models, WITH_GRAMMAR)[0] == "{}"
    assert models["chem"].asks[1].resumed == Resumed("{", (7,), "t")


def test_a_form_is_never_continued_by_another_model():
    begun = ModelChunk("{", num_tokens=1, ids=(7,), tokenizer="t")
    models = playing(meta=[[to("chem")]], chem=[[begun, GONE], [GONE]])
    with pytest.raises(ModelUnavailable):
        answer(models, WITH_GRAMMAR)
    assert len(models["meta"].asks) == 1


def test_a_form_that_has_not_begun_may_go_to_another_model():
    models = playing(meta=[[to("chem")], [word("{}"), STOP]], chem=[[GONE], [GONE]])
    assert answer(models, WITH_GRAMMAR)[0] == "{}"


def test_the_least_number_of_tokens_is_that_of_the_whole_answer():
    sampling = Sampling(options=SamplingOptions(min_tokens=5))
    models = playing(meta=[[word("a"), word("b"), to("chem")]], chem=[[word("c"), STOP]])
    answer(models, replace(GENERATION, sampling=sampling))
    options = [ask.sampling.options for name in ("meta", "chem") for ask in models[name].asks]
    assert [each and each.min_tokens for each in options] == [5, 3]


def test_a_stop_string_counts_only_after_the_least_number_of_tokens():
    generation = replace(GENERATION, stop=StopRule(("x",), min_tokens=1))
    models = playing(meta=[[word("ax"), word("bx"), word("c"), STOP]])
    text, done = answer(models, generation)
    assert (text, done.stop_reason) == ("axb", "x")


def test_a_stop_string_is_shown_if_asked_for():
    generation = replace(GENERATION, stop=StopRule(("<end>",), included=True))
    models = playing(meta=[[word("a<e"), word("nd>b"), STOP]])
    assert answer(models, generation)[0] == "a<end>"


def test_the_token_that_ended_the_answer_is_named():
    models = playing(meta=[[word("a"), replace(STOP, stop_token=42)]])
    assert answer(models)[1].stop_reason == 42


def test_log_probabilities_come_with_the_text_of_their_tokens():
    chunks = [
        ModelChunk("a<", 2, logprobs=tokens("a", "<")),
        ModelChunk("b", 1, logprobs=tokens("b")),
        ModelChunk("<end>c", 2, logprobs=tokens("<end>", "c")),
    ]
    deltas, _ = answer_in_parts(
        playing(meta=[[*chunks, STOP]]), replace(GENERATION, stop=StopRule(("<end>",)))
    )
    assert deltas == [
        TextDelta("a", "meta", tokens("a")),
        TextDelta("<b", "meta", tokens("<", "b")),
    ]


def test_the_log_probabilities_of_the_prompt_come_first():
    first = ModelChunk(prompt_logprobs=tokens("q"), num_prompt_tokens=1)
    deltas, _ = answer_in_parts(playing(chem=[[first, word("a"), STOP]]), DIRECT)
    assert deltas == [PromptDelta(tokens("q"), "chem"), TextDelta("a", "chem")]


@given(st.lists(PARTS, max_size=12), st.lists(st.integers(0, 12)), st.integers(0, 12))
def test_the_parts_do_not_depend_on_the_chunks_nor_on_a_lost_replica(
    parts: list[Part], cuts: list[int], lost_at: int
):
    bounds = sorted({0, len(parts), *(min(cut, len(parts)) for cut in cuts)})
    chunks = [
        writes_parts("~", *parts[start:end], ids=(start,))
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]
    first = chunks[: lost_at % (len(chunks) + 1)]
    models = {"chem": FakeModel(turns([*first, GONE], [*chunks[len(first) :], STOP]))}
    deltas, _ = answer_in_parts(models, DIRECT)
    expected: defaultdict[Any, str] = defaultdict(str)
    for part in parts:
        match part:
            case TextPart():
                expected["text"] += part.text
            case ReasoningPart():
                expected["reasoning"] += part.text
            case ToolCallPart():
                expected[part.index] += part.arguments
    assert seen(deltas) == {field: text for field, text in expected.items() if text}
