"""Tool calls of servers that number and name them otherwise than OpenAI."""

from __future__ import annotations

from typing import Any

import pytest

from experts.engine.openai.call_reader import CallReader


def piece(arguments: str, name: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"function": {"arguments": arguments, **({"name": name} if name else {})}, **fields}


def calls_of(*pieces: dict[str, Any]) -> list[tuple[str | None, str]]:
    """The names and arguments of the calls, in order of their numbers."""
    reader = CallReader()
    parts = [part for each in pieces for part in reader.read({"tool_calls": [each]})]
    numbers = sorted({part.index for part in parts})
    assert numbers == list(range(len(numbers)))
    found = []
    for number in numbers:
        own = [part for part in parts if part.index == number]
        assert [part.name for part in own[1:]] == [None] * (len(own) - 1)
        found.append((own[0].name, "".join(part.arguments for part in own)))
    return found


ROME, OSLO = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(ROME[1], "weather", index=0, id="a"), piece(OSLO[1], "weather", index=1, id="b")],
        [piece(ROME[1], "weather", index=0, id="a"), piece(OSLO[1], "weather", index=0, id="b")],
        [piece(ROME[1], "weather", index=0), piece(OSLO[1], "weather", index=0)],
        [piece(ROME[1], "weather"), piece(OSLO[1], "weather")],
        [
            piece("", "weather", index=0, id="a"),
            piece("", "weather", index=1, id="b"),
            piece('{"city": ', index=0),
            piece('{"city": ', index=1),
            piece('"Rome"}', index=0),
            piece('"Oslo"}', index=1),
        ],
        [
            piece('{"city": ', "weather", index=0, id="a"),
            piece('"Rome"}', "weather", index=0, id="a"),
            piece('{"city": ', "weather", index=0, id="b"),
            piece('"Oslo"}', "weather", index=0, id="b"),
        ],
    ],
    ids=["as OpenAI", "index reused", "no ids", "neither", "by turns", "name repeated"],
)
def test_every_call_has_its_own_arguments(pieces: list[dict[str, Any]]):
    assert calls_of(*pieces) == [ROME, OSLO]


def test_another_name_begins_another_call():
    assert calls_of(piece("", "now"), piece("", "weather"), piece("{}")) == [("now", ""), ("weather", "{}")]


def test_pieces_without_a_name_or_arguments_are_left_out():
    reader = CallReader()
    odd: list[object] = ["no list", None, [{}], [None], [{"function": {}}], [{"function": {"name": 3}}]]
    for calls in odd:
        assert reader.read({"tool_calls": calls}) == []
    assert calls_of({"id": "a", "index": 0}, piece("{}", "now", index=0)) == [("now", "{}")]
