"""Which parser a model gets, by name or by its chat template, and what it needs to see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experts.engine.detokenizer import IncrementalDetokenizer
from experts.engine.parsing.registry import REASONING_PARSERS, TOOL_PARSERS, ParserChoice, choose
from experts.engine.request import EngineRequest, Grammar, GrammarKind, SamplingOptions
from experts.errors import InvalidPrompt, ModelLoadError
from experts.text.decoder import TokenDecoder
from tests.experts.engine.parsing.answers import Joined, parse, request
from tests.tiny.templates import ChatFormat
from tests.tiny.tokenizers import of_format


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ messages }}", "hermes", None),  # the format in which tools are explained as text
        ("{{ tools }}{{ messages }}", None, None),
        ("{{ tools }}<tool_call>{'name': …}</tool_call>", "hermes", None),
        ("{{ tools }}<tool_call>…<think>", "hermes", "qwen3"),
        ("{{ tools }}<tool_call>\n<function=x>\n<parameter=y>…</think>", "qwen3_coder", "qwen3"),
        ("{{ tools }}<tool_call>{{ name }}<arg_key>…<think></think>", "glm45", "qwen3"),
        ("{{ tools }}[AVAILABLE_TOOLS][TOOL_CALLS]", "mistral", None),
        ("{{ tools }}[THINK][TOOL_CALLS]", "mistral", "mistral"),
        ("{{ tools }}<|python_tag|>ipython", "llama3_json", None),
        ("{{ tools }}<|start|>assistant<|channel|>final<|message|>", "openai", "openai_gptoss"),
        ("{{ tools }}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>…<think>", "deepseek_v3", "qwen3"),
    ],
)
def test_auto_looks_at_the_chat_template(template, tools, reasoning):
    assert choose(template) == ParserChoice(tools, reasoning)
    assert choose(template, "none", "none") == ParserChoice()
    assert choose(template, "jamba", "step3") == ParserChoice("jamba", "step3")


def test_an_unknown_name_is_an_error_that_lists_all_names():
    with pytest.raises(ModelLoadError, match="no tool_parser 'hermse'.* auto, none, ") as caught:
        choose("", "hermse")
    assert all(name in str(caught.value) for name in TOOL_PARSERS)
    with pytest.raises(ModelLoadError, match="there is no reasoning_parser 'x'") as caught:
        choose("", reasoning_parser="x")
    assert all(name in str(caught.value) for name in REASONING_PARSERS)


def test_harmony_goes_with_harmony_only():
    with pytest.raises(ModelLoadError, match="openai goes with openai_gptoss"):
        choose("", "openai", "qwen3")
    assert choose("", "openai", "none").reasoning_end == choose("", "none", "openai_gptoss").reasoning_end


def test_nothing_is_parsed_where_nothing_is_sought():
    tools, both = ParserChoice("hermes"), ParserChoice("hermes", "qwen3")
    plain = replace(request(), chat=None)
    assert ParserChoice().parser(request(), "") is None
    assert tools.parser(plain, "") is None
    assert tools.parser(request(tool_choice="none"), "") is None
    assert both.parser(EngineRequest("1", text="a raw prompt"), "") is None
    assert both.parser(plain, "") is not None


FORM = SamplingOptions(grammar=Grammar(GrammarKind.JSON_OBJECT))


def test_only_an_answer_in_a_given_form_that_begins_with_a_call_is_one():
    both = ParserChoice("hermes", "qwen3")
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    for text, found in (
        (call, Joined(calls=[("now", "{}")])),
        ('{"a": "' + call + '"}', Joined(text='{"a": "' + call + '"}')),
        ("<think>hm</think>" + call, Joined(reasoning="hm", calls=[("now", "{}")])),
    ):
        reader = both.parser(replace(request(), sampling=FORM), "")
        assert reader
        assert parse(reader, text) == found


def test_a_form_does_not_hide_thoughts():
    plain = replace(request(), chat=None, sampling=FORM)
    reader = ParserChoice("hermes", "qwen3").parser(plain, "<think>")
    assert reader
    assert parse(reader, 'hm</think>{"a": 1}') == Joined(reasoning="hm", text='{"a": 1}')


@pytest.mark.parametrize(
    ("name", "beginnings"),
    [
        ("hermes", ("<tool_call>",)),
        ("pythonic", ("[now(",)),
        ("llama3_json", ("<|python_tag|>", '{"name": "now"', '{"name":"now"')),
    ],
)
def test_a_call_in_place_of_a_form_has_a_known_beginning(name: str, beginnings: tuple[str, ...]):
    formed = replace(request(), sampling=FORM)
    found = ParserChoice(name).call_beginnings(formed)
    assert tuple(text for text in found if "now" in text or "<" in text) == beginnings
    assert ParserChoice(name).call_beginnings(request()) == ()
    assert ParserChoice(name).call_beginnings(replace(formed, chat=None)) == ()
    for choice in (ParserChoice(), ParserChoice("openai")):
        with pytest.raises(InvalidPrompt):
            choice.call_beginnings(formed)


def test_forced_calls_are_read_without_a_format_too():
    reader = ParserChoice().parser(request(tool_choice="now"), "")
    assert reader
    assert parse(reader, "{}") == Joined(calls=[("now", "{}")])


@pytest.mark.parametrize("name", TOOL_PARSERS)
def test_shown_tokens_are_whole_tokens(name):
    assert all(token[0] in "<[" and token[-1] in ">]" for token in choose("", name, "none").shown_tokens)


def test_the_marks_of_a_model_are_shown():
    assert choose("", "mistral", "mistral").shown_tokens == {
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "[THINK]",
        "[/THINK]",
    }
    assert {"<|action_start|>", "<|plugin|>", "<|action_end|>"} == choose("", "internlm", "none").shown_tokens
    assert {"<|channel|>", "<|message|>", "<|end|>"} < choose("", "openai", "openai_gptoss").shown_tokens


def test_marks_that_are_special_tokens_are_found_in_generated_ids():
    control = ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "[INST]")
    tokenizer = of_format(ChatFormat(template="", bos="<s>", eos="</s>", control=control))
    choice = choose("", "mistral", "mistral")
    text = '[THINK]hm[/THINK]so[INST][TOOL_CALLS]now[ARGS]{"a": "é"}'
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoder = TokenDecoder(tokenizer.backend_tokenizer)
    detokenizer = IncrementalDetokenizer(decoder.showing(choice.shown_tokens), [])
    reader = choice.parser(request(), "")
    assert reader
    pieces = [detokenizer.add(ids[: i + 1], last=i + 1 == len(ids))[0] for i in range(len(ids))]
    assert parse(reader, pieces) == Joined("so", "hm", [("now", '{"a": "é"}')])
    assert "[TOOL_CALLS]" not in decoder.decode(ids)
