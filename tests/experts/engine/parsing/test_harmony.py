"""The format of gpt-oss: channels become thoughts, text and calls."""

from __future__ import annotations

import pytest

from experts.engine.parsing.harmony import HarmonyParser
from experts.engine.parsing.tool_schemas import ToolSchemas
from tests.experts.engine.parsing.answers import TOOLS, Joined, parse

TURN = "<|start|>user<|message|>q<|end|><|start|>assistant"
THINK = "<|channel|>analysis<|message|>hm < \n<|end|>"
NEXT = "<|start|>assistant"
ARGUMENTS = '{"city": "Par\\"is"}'
CALL = f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>"
WEATHER = ("get_weather", ARGUMENTS)


def read(pieces, tail=TURN, tools=TOOLS):
    return parse(HarmonyParser(ToolSchemas(tools), tail), pieces)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{THINK}{NEXT}<|channel|>final<|message|>so<|return|>", Joined("so", "hm < \n")),
        (f"{THINK}{NEXT}{CALL}", Joined("", "hm < \n", [WEATHER])),
        (
            f"{THINK}{NEXT}<|channel|>commentary<|message|>I look<|end|>{NEXT}{CALL}{NEXT}{CALL}",
            Joined("I look", "hm < \n", [WEATHER] * 2),
        ),
        # The recipient before the channel, by its bare name, with another content type or without arguments.
        (" to=functions.now<|channel|>commentary json<|message|><|call|>", Joined(calls=[("now", "{}")])),
        ("<|channel|>commentary to=now code<|message|>{}", Joined(calls=[("now", "{}")])),
        ("<|channel|>commentary to=now<|message|>{oops}<|call|>", Joined(calls=[("now", "{oops}")])),
        ('<|channel|>commentary to=now<|message|>{"a":', Joined(calls=[("now", '{"a":')])),
        # A mark is missing.
        ("Hello, world", Joined("Hello, world")),
        ("<|channel|>analysis<|message|>hm<|channel|>final<|message|>so", Joined("so", "hm")),
        ("<|channel|>final<|message|>so<|start|>", Joined("so<|start|>")),
        ("<|channel|>, so", Joined("<|channel|>, so")),
        ("<|channel|>final<|mess", Joined("<|channel|>final<|mess")),
        ("<|end|><|return|>so", Joined("so")),
        # Another recipient than a function.
        ("<|channel|>analysis to=python code<|message|>1+1<|call|>", Joined("", "1+1")),
        ("", Joined()),
    ],
)
def test_messages(text, expected):
    assert read([text]) == expected
    assert read(text) == expected
    for i in range(len(text)):
        assert read([text[:i], text[i:]]) == expected


@pytest.mark.parametrize(
    ("tail", "text", "expected"),
    [
        (f"{TURN}<|channel|>final<|message|>Iron", " is", Joined(" is")),
        (f"{TURN}<|channel|>analysis<|message|>", "hm", Joined("", "hm")),
        (f"{TURN}<|channel|>", "analysis<|message|>hm", Joined("", "hm")),
        ("the beginning of the turn is too far away", " is", Joined(" is")),
    ],
)
def test_the_prompt_may_hold_the_header(tail, text, expected):
    assert read([text], tail) == read(text, tail) == expected


def test_calls_are_text_if_they_are_not_sought():
    assert read([CALL], tools=()) == Joined(ARGUMENTS)


def test_it_says_when_the_model_thinks():
    parser = HarmonyParser(ToolSchemas(()), TURN)
    states = []
    for piece in ("<|channel|>analysis<|message|>", "hm", "<|end|>", NEXT, "<|channel|>final<|message|>so"):
        parser.feed(piece)
        states.append(parser.in_reasoning)
    assert states == [True, True, False, False, False]
