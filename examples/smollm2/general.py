"""General chat, which no expert should take: small talk, facts, advice, writing and code.

Many questions are neighbours of a domain: they use its words without asking for its task.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.smollm2.phrasing import vary
from examples.smollm2.question import Part, Question

_TEXTS = Path(__file__).with_suffix(".toml")
_ROLES = ("user", "assistant")

_Turns = tuple[str, ...]


@dataclass(frozen=True)
class Chats:
    """The conversations of one part, as alternating turns that end with the user's."""

    neighbours: tuple[_Turns, ...]
    others: tuple[_Turns, ...]

    @property
    def all(self) -> tuple[_Turns, ...]:
        return self.neighbours + self.others


def sample(num: int, rng: random.Random, part: Part) -> list[Question]:
    """`num` different questions of the part, written as people type: with greetings, typos and courtesy.

    Raises ValueError if there are fewer.
    """
    known = CHATS[part].all
    if num > len(known):
        raise ValueError(f"num={num}: {part} has {len(known)} general questions; ask for no more")
    return [_question(turns, vary(turns[-1], rng, part)) for turns in rng.sample(known, num)]


def questions(part: Part) -> list[Question]:
    """All questions of the part as they stand in the file, without typos or greetings."""
    return [_question(turns, turns[-1]) for turns in CHATS[part].all]


def _question(turns: _Turns, last: str) -> Question:
    messages = tuple(
        {"role": _ROLES[position % 2], "content": turn} for position, turn in enumerate((*turns[:-1], last))
    )
    return Question(None, messages, "")


def _read(part: Part) -> Chats:
    table = tomllib.loads(_TEXTS.read_text(encoding="utf-8"))[part]
    return Chats(tuple(_turns(table, "neighbour", "neighbours")), tuple(_turns(table, "", "others")))


def _turns(table: Mapping[str, Any], kind: str, single: str) -> Iterable[_Turns]:
    prefix = f"{kind}_" if kind else ""
    yield from ((text,) for text in table[single])
    yield from (tuple(turns) for turns in table[f"{prefix}conversations"])
    for frames, subjects in table[f"{prefix}frames"]:
        yield from ((frame.replace("{}", subject),) for frame in frames for subject in subjects)


CHATS: Mapping[Part, Chats] = {"train": _read("train"), "held_out": _read("held_out")}
