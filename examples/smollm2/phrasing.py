"""How people write the same request: frames with slots, typos, courtesy, greetings and short follow-ups."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from examples.smollm2.question import Part, Question

TYPO_SHARE = 0.1
COURTESY_SHARE = 0.08
FOLLOW_UP_SHARE = 0.12
GREETING_SHARE = 0.1
CASUAL_SHARE = 0.08
# The share of the follow-ups that come after two questions instead of one.
SECOND_FOLLOW_UP_SHARE = 0.2

GREETINGS: Mapping[Part, tuple[str, ...]] = {
    "train": (
        *("Hi! ", "Hello! ", "Hey! ", "Hi there! ", "Good morning! ", "Hello, ", "Hi, ", "hey, "),
        *("Good afternoon. ", "Hello again! ", "Hi, how are you? ", "Hallo! ", "Dear assistant, "),
    ),
    "held_out": (
        *("Howdy! ", "Good evening! ", "Yo, ", "Hey there, ", "Greetings! ", "Hiya! ", "Bonjour! "),
        *("Hope you are well. ", "Good day, "),
    ),
}
# Words of courtesy in front of a request, and the same words after it.
COURTESIES: Mapping[Part, tuple[tuple[str, str], ...]] = {
    "train": (
        *(("Bitte: ", " bitte"), ("Por favor, ", ", por favor"), ("S'il vous plaît, ", ", s'il vous plaît")),
        *(("Onegai, ", " onegai"), ("Please: ", ", please"), ("Merci d'avance. ", ", merci")),
        *(("Per piacere, ", ", grazie"), ("Pretty please: ", " pls")),
    ),
    "held_out": (
        *(("Per favore, ", ", per favore"), ("Alsjeblieft: ", " alsjeblieft"), ("Prosím, ", " prosím")),
        *(("Lütfen, ", ", lütfen"), ("Kudasai: ", " kudasai"), ("If you please: ", ", thank you kindly")),
    ),
}
# For domains in which one input alone makes a follow-up.
SHORT_FOLLOW_UPS: Mapping[Part, tuple[str, ...]] = {
    "train": (
        *("And {}?", "and {}", "What about {}?", "Now {}.", "next: {}", "How about {}?", "Same for {}."),
        *("{}?", "Thanks! And {}?", "Now this one: {}", "also {}", "Good. What is {} then?", "Another: {}"),
    ),
    "held_out": (
        *("Then {}?", "ok and {} then", "Do {} too.", "One more: {}", "{} as well", "Great, now try {}"),
        *("Perfect. Continue with {}.", "Likewise {}?"),
    ),
}

_SLOT = re.compile(r"\{(\w*)\}")
# Short words are left alone, because a typo makes other words of them.
_WORD = re.compile(r"[A-Za-z]{4,}")


@dataclass(frozen=True)
class Exercise:
    """What fills the slots of a frame, and the right answer. The slot `{}` has the name ""."""

    slots: Mapping[str, str]
    answer: str


# Draws an exercise; with an earlier one, draws one that may follow it in a conversation.
Draw = Callable[[random.Random, Part, Exercise | None], Exercise]


@dataclass(frozen=True)
class Phrasings:
    """The frames of a domain: whole questions, and short follow-ups."""

    frames: Mapping[Part, tuple[str, ...]]
    follow_ups: Mapping[Part, tuple[str, ...]] = field(default_factory=lambda: SHORT_FOLLOW_UPS)


def converse(domain: str, phrasings: Phrasings, draw: Draw, rng: random.Random, part: Part) -> Question:
    """A question of the domain; in some cases one that follows earlier questions and their answers."""
    exercise = draw(rng, part, None)
    messages = [_user(fill(vary(rng.choice(phrasings.frames[part]), rng, part), exercise.slots))]
    for _ in range(_num_follow_ups(rng)):
        messages.append({"role": "assistant", "content": exercise.answer})
        exercise = _next(exercise, draw, rng, part)
        messages.append(_user(fill(rng.choice(phrasings.follow_ups[part]), exercise.slots)))
    return Question(domain, tuple(messages), exercise.answer)


def vary(frame: str, rng: random.Random, part: Part) -> str:
    """The same frame as other people would type it. Its slots stay as they are."""
    if rng.random() < COURTESY_SHARE:
        frame = add_courtesy(frame, rng, part)
    if rng.random() < CASUAL_SHARE:
        frame = make_casual(frame)
    if rng.random() < TYPO_SHARE:
        frame = add_typo(frame, rng)
    if rng.random() < GREETING_SHARE:
        frame = _join(rng.choice(GREETINGS[part]), frame)
    return frame


def fill(frame: str, slots: Mapping[str, str]) -> str:
    """The frame with its slots replaced. Other braces, as in code, stay."""
    return _SLOT.sub(lambda slot: slots[slot[1]], frame)


def add_courtesy(frame: str, rng: random.Random, part: Part) -> str:
    """The frame with a polite word in some language before or after it."""
    before, after = rng.choice(COURTESIES[part])
    # After a slot at the end, the word could be taken for a part of the input.
    if _ends_with_slot(frame) or rng.random() < 0.5:
        return _join(before, frame)
    body = frame.rstrip(".?!")
    return body + after + frame[len(body) :]


def make_casual(frame: str) -> str:
    """The frame in lower case and without the mark at its end."""
    lowered = "".join(
        piece if _SLOT.fullmatch(piece) else piece.lower() for piece in re.split(r"(\{\w*\})", frame)
    )
    return lowered if _ends_with_slot(lowered) else lowered.rstrip(".?!")


def add_typo(frame: str, rng: random.Random) -> str:
    """The frame with two letters swapped, or one dropped or doubled, in one of its words."""
    slots = [slot.span() for slot in _SLOT.finditer(frame)]
    words = [
        word
        for word in _WORD.finditer(frame)
        if not any(start < word.end() and word.start() < end for start, end in slots)
    ]
    if not words:
        return frame
    word = rng.choice(words)
    # The first letter stays: people rarely get it wrong.
    position = rng.randrange(word.start() + 1, word.end() - 1)
    first, second = frame[position], frame[position + 1]
    replacement = rng.choice((second + first, second, first + first + second))
    return frame[:position] + replacement + frame[position + 2 :]


def _num_follow_ups(rng: random.Random) -> int:
    if rng.random() >= FOLLOW_UP_SHARE:
        return 0
    return 2 if rng.random() < SECOND_FOLLOW_UP_SHARE else 1


def _next(before: Exercise, draw: Draw, rng: random.Random, part: Part) -> Exercise:
    """Another exercise: nobody asks the same again."""
    while (exercise := draw(rng, part, before)) == before:
        continue
    return exercise


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _ends_with_slot(frame: str) -> bool:
    return re.search(r"\{\w*\}\W*\Z", frame) is not None and not frame.endswith(("?", ".", "!"))


def _join(before: str, frame: str) -> str:
    """`before` and the frame, which goes on in lower case after a comma or colon."""
    if before.rstrip().endswith((",", ":")) and frame[:1].isupper() and frame[1:2].islower():
        frame = frame[0].lower() + frame[1:]
    return before + frame
