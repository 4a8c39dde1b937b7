"""This package's output parsers beside vLLM's own, on the same answers: whole, by tokens, in one delta."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from experts.engine.detokenizer import IncrementalDetokenizer
from experts.engine.parsing.formats import CALL_FORMATS, THINK_MARKS
from experts.engine.parsing.harmony import HarmonyParser
from experts.engine.parsing.registry import NONE, choose
from experts.engine.parsing.tool_schemas import ToolSchemas
from experts.errors import ModelLoadError
from experts.text.decoder import TokenDecoder
from tests.experts.engine.parsing.answers import (
    CALLS,
    TOOLS,
    WRITERS,
    Joined,
    joined,
    parse,
    parser,
    request,
    tool,
)
from tests.support.engine_world import needs_vllm
from tests.tiny.templates import ChatFormat
from tests.tiny.tokenizers import of_format

pytestmark = [needs_vllm, pytest.mark.filterwarnings("default")]  # vLLM's own code warns

CHOICES = [
    *(choose("", name, NONE) for name in CALL_FORMATS),
    *(choose("", NONE, name) for name in THINK_MARKS),
]
MARKS = sorted({token for choice in CHOICES for token in choice.shown_tokens})
MODES = ("whole", "tokens", "once")
BEFORE = "I look it up.\n"

_BEFORE = "it finds no call after other text, or loses that text"
_HYPHEN = "a name with a hyphen is no name in Python"
# Where vLLM 0.32 gives something else, and why: (format, mode), or the format alone for all modes.
DIFFERENT = {
    ("deepseek_v3", "once"): "it loses a call that one delta holds",
    ("deepseek_v31", "once"): "it loses a call that one delta holds",
    "internlm": "it fails at a second call",
    ("jamba", "tokens"): "it loses keys and quotes of arguments",
    ("jamba", "once"): "it loses text before calls, and fails at several calls in one delta",
    "lfm2": _HYPHEN,
    ("llama3_json", "tokens"): "it loses empty arguments",
    ("llama3_json", "once"): "it fails at several calls in one delta",
    "llama3_json (marked)": _BEFORE,
    "llama4_pythonic": f"{_BEFORE}; {_HYPHEN}",
    "olmo3": f"{_BEFORE}; {_HYPHEN}",
    ("phi4_mini_json", "whole"): "it loses text before calls, and ends a list at the first bracket",
    ("phi4_mini_json", "tokens"): "it does not stream",
    ("phi4_mini_json", "once"): "it does not stream",
    "pythonic": _HYPHEN,
}
_PROMPT = "it does not know that the prompt has begun the thoughts"
DIFFERENT_THOUGHTS = {
    "deepseek_v3": "it seeks thoughts only if the request has chat_template_kwargs: {thinking: true}",
    "granite": f"it cuts the marks wrong in streams; {_PROMPT}",
    "mistral": _PROMPT,
    "olmo3": "it needs tokens of OLMo's own vocabulary",
    "step3": "it keeps the first mark",
}


def tokenizer_with(marks: Sequence[str]):
    return of_format(ChatFormat(template="", bos="<s>", eos="</s>", visible=tuple(marks)))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_with(MARKS)


@pytest.fixture(scope="module")
def old_tokenizer() -> Any:
    """vLLM knows Mistral's lists of calls by a mark that their tokenizers lack."""
    return tokenizer_with([mark for mark in MARKS if mark != "[ARGS]"])


def pieces_of(tokenizer, text: str) -> Iterator[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    detokenizer = IncrementalDetokenizer(TokenDecoder(tokenizer.backend_tokenizer), [])
    for i in range(len(ids)):
        if piece := detokenizer.add(ids[: i + 1], last=i + 1 == len(ids))[0]:
            yield piece


def vllm_answer(mode: str, tokenizer, text: str, tools=None, reasoning=None, tail="<s>\n") -> Joined | None:
    """What vLLM's parsers of these names make of the text; None if they fail."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser.parser_manager import ParserManager

    from experts.engine.vllm.parsing import VllmParserChoice

    try:
        parser_type = ParserManager.get_parser(tools, reasoning, enable_auto_tools=True, tokenizer=tokenizer)
        assert parser_type
        if mode != "whole":
            choice = VllmParserChoice(tools, reasoning, tokenizer=tokenizer, parser_type=parser_type)
            reader = choice.parser(request(), tail)
            assert reader
            return parse(reader, [text] if mode == "once" else pieces_of(tokenizer, text))
        question = ChatCompletionRequest(messages=[], tools=list(TOOLS))
        thoughts, content, calls = parser_type(tokenizer, question.tools).parse(text, question, True)
    except (AssertionError, TypeError, ValueError):
        return None
    return Joined(content or "", thoughts or "", [(call.name, call.arguments) for call in calls or []])


def same(found: Joined | None, own: Joined) -> bool:
    """Whether the calls and the text agree, but for blanks, which some parsers of vLLM strip."""
    try:
        return bool(found and (found.values, found.text.strip()) == (own.values, own.text.strip()))
    except json.JSONDecodeError:
        return False


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format_", WRITERS)
def test_calls_are_those_that_vllm_finds(format_, mode, tokenizer, old_tokenizer):
    name = format_.split()[0]
    used = old_tokenizer if format_ == "mistral (list)" else tokenizer
    is_equal = []
    for before in ("", BEFORE) if format_ not in ("llama3_json", "pythonic") else ("",):
        for calls in CALLS.values():
            text = before + WRITERS[format_](calls)
            own = parse(parser(name), pieces_of(used, text))
            assert own.values == calls
            is_equal.append(same(vllm_answer(mode, used, text, tools=name), own))
    is_different = format_ in DIFFERENT or (format_, mode) in DIFFERENT
    assert all(is_equal) != is_different


@pytest.mark.parametrize("name", THINK_MARKS)
def test_thoughts_are_those_that_vllm_finds(name, tokenizer):
    marks = THINK_MARKS[name]
    answers = []
    for opened, tail in ((marks.start, "<s>\n"), ("", f"{marks.start}\n")):
        text = f"{opened}a\nb{marks.end}\n\nso"
        own = parse(parser(NONE, name, tail), pieces_of(tokenizer, text))
        assert own == Joined("\n\nso", "a\nb")
        answers += [vllm_answer(mode, tokenizer, text, None, name, tail) == own for mode in MODES]
    assert all(answers) != (name in DIFFERENT_THOUGHTS)


def test_harmony_is_read_as_vllm_reads_it(tokenizer):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
    from vllm.parser.parser_manager import ParserManager

    from experts.engine.vllm.parsing import parts_of

    parser_type = ParserManager.get_parser(
        "openai", "openai_gptoss", enable_auto_tools=True, is_harmony=True, tokenizer=tokenizer
    )
    assert parser_type
    encoding, question = get_encoding(), ChatCompletionRequest(messages=[], tools=list(TOOLS))
    turn, call = "<|start|>assistant", '<|message|>{"city": "Oslo – \\"x\\""}<|call|>'
    for text in (
        f"<|channel|>analysis<|message|>hm\n<|end|>{turn}<|channel|>final<|message|>so<|return|>",
        f"<|channel|>analysis<|message|>hm<|end|>{turn}<|channel|>commentary<|message|>I look<|end|>"
        f"{turn}<|channel|>commentary to=functions.get_weather <|constrain|>json{call}",
        f" to=functions.get_weather<|channel|>commentary json{call}",
    ):
        ids = encoding.encode(text, allowed_special="all")
        own = parse(HarmonyParser(ToolSchemas(TOOLS), turn), [encoding.decode([i]) for i in ids])
        reader = parser_type(tokenizer, question.tools)
        deltas = [reader.parse_delta("", [i], question, [], finished=False) for i in ids]
        assert joined(part for delta in deltas if delta for part in parts_of(delta)) == own


def test_a_parser_that_only_vllm_has_is_used_by_its_name():
    from experts.engine.vllm.parsing import VllmParserChoice
    from experts.engine.vllm.parsing import choose as choose_for_vllm

    tokenizer = tokenizer_with(["<think>", "</think>"])
    choice = choose_for_vllm(tokenizer, "xlam", "nemotron_v3")
    assert isinstance(choice, VllmParserChoice)
    assert choice.reasoning_end == "</think>"
    assert "<s>" in choice.shown_tokens
    reader = choice.parser(request(), "<think>")
    assert reader
    assert reader.in_reasoning
    text = 'hm</think>[{"name": "add", "arguments": {"a": 1}}]'
    answer = parse(reader, pieces_of(tokenizer, text))
    assert (answer.reasoning, answer.values) == ("hm", [("add", {"a": 1})])
    assert not reader.in_reasoning
    forced = choice.parser(request(tool_choice="now"), "")
    assert forced
    answer = parse(forced, pieces_of(tokenizer, "hm</think>{}"))
    assert answer == Joined(reasoning="hm", calls=[("now", "{}")])


def test_own_parsers_are_preferred_to_those_of_vllm():
    from experts.engine.vllm.parsing import choose as choose_for_vllm

    tokenizer = tokenizer_with(["<think>", "</think>"])
    tokenizer.chat_template = "<tool_call><think>"
    assert choose_for_vllm(tokenizer, "auto", "auto") == choose("", "hermes", "qwen3")
    mixed = choose_for_vllm(tokenizer, "auto", "nemotron_v3")
    assert (mixed.tool_parser, mixed.reasoning_parser) == ("hermes", "nemotron_v3")
    with pytest.raises(ModelLoadError, match="no tool_parser 'x'.* hermes,.* xlam"):
        choose_for_vllm(tokenizer, "x", "auto")
    with pytest.raises(ModelLoadError, match="ernie45 cannot be used"):
        choose_for_vllm(tokenizer_with([]), "auto", "ernie45")


def test_tools_are_not_sought_by_vllm_if_the_request_has_none():
    from experts.engine.vllm.parsing import choose as choose_for_vllm

    choice = choose_for_vllm(tokenizer_with([]), "xlam", NONE)
    assert choice.parser(request(tools=[]), "") is None
    assert choice.parser(request(tools=[tool("now")], tool_choice="none"), "") is None
