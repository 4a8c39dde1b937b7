"""Whether an answer is right: a strict and a lenient reading of it, for free text and for multiple choice."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase

from experts.learn.queries import Query

_EXPLICIT = re.compile(
    r"(?:(?:so |therefore,? |thus,? )?(?:the |my )?(?:(?:correct|right|best|final) )?"
    r"(?:answer|choice|option)(?: is)?:? ?)?"
    r"(?:\((?P<bracketed>[a-z])\)|(?P<bare>[a-z])\)?)(?:[.:,]? (?P<rest>.+)|[.:]?)"
)


def is_right(query: Query, text: str, lenient: bool = False) -> bool:
    """Judges `text`, a whole answer to `query`, which must have a right answer.

    Without choices, strictly: the right answer and nothing else, but for `query.written` before it, once
    case, blanks and forms of characters (NFKC) are levelled; the whole reference is right as well.
    Leniently: the right answer occurs as a phrase. With choices: see `choose`.
    """
    assert query.answer is not None, "only a query with a right answer can be judged"
    rest = text.lstrip().removeprefix(query.written.lstrip())
    if query.choices:
        return choose(rest, query.choices, lenient) == query.answer.strip().upper()
    wanted = _levelled(query.answer)
    # Of small talk all may be `written`, the answer included.
    if wanted in (_levelled(text), _levelled(rest)):
        return True
    if query.response and _levelled(rest) == _levelled(query.response):
        return True
    return lenient and _occurs(wanted, _levelled(text))


def choose(text: str, choices: Sequence[str], lenient: bool = False) -> str | None:
    """The letter, from A on, of the choice that `text` makes; None where it makes none.

    Strictly, the whole text must be a letter ("B", "(B)", "B.", "The answer is (B)"), alone or with that
    choice's own words after it, or the words of exactly one choice. What is two choices at once is none.
    Leniently, and for comparison with published figures, it is read in the spirit of the evaluation that
    came with expert token routing: choices' words become letters, then the first of "answer is X", "X is
    correct", a leading X and a lone X counts, else the choice with the most similar words. Only a text
    like none of them is no answer, so expect about chance from garbage.
    """
    # The strict reading comes first, so that what is strictly right is leniently right.
    strict = _explicit_choice(_levelled(text), [_levelled(choice) for choice in choices])
    if strict or not lenient:
        return strict
    return _mentioned_choice(_plain(text), choices) or _most_similar_choice(text, choices)


def _levelled(text: str) -> str:
    """Folding case can undo NFKC, hence twice."""
    return _plain(unicodedata.normalize("NFKC", text).casefold())


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _occurs(phrase: str, text: str) -> bool:
    """Whether `phrase` stands in `text` with an end of a word, or of a number, on either side.

    Signs belong to a phrase that has them: "..." is not in "....", nor "C+" in "C++".
    """
    if not phrase:
        return False
    signs = "".join(re.escape(char) for char in sorted(set(phrase)) if not (char.isalnum() or char.isspace()))
    before = rf"(?<![\w{signs}])(?<!\d[.,])"
    after = rf"(?![\w{signs}]|[.,]\d)"
    return re.search(before + re.escape(phrase) + after, text) is not None


def _explicit_choice(text: str, choices: Sequence[str]) -> str | None:
    made = {letter for letter, choice in _lettered(choices) if text and choice == text}
    if found := _EXPLICIT.fullmatch(text):
        letter, rest = (found["bracketed"] or found["bare"]).upper(), found["rest"]
        if rest is None:
            made |= {letter} & dict(_lettered(choices)).keys()
        elif (letter, rest) in _lettered(choices):
            made.add(letter)
    return made.pop() if len(made) == 1 else None


def _mentioned_choice(text: str, choices: Sequence[str]) -> str | None:
    letter = rf"\(?(?<!\w)([{''.join(letter for letter, _ in _lettered(choices))}])(?!\w)\)?"
    patterns = (
        rf"(?i:\b(?:answer|choice|option)(?: is|:)|\b(?:choose|choosing)):? {letter}",
        rf"{letter} (?i:is (?:the )?(?:correct|right)\b)",
        rf"^{letter}(?:$|(?<=\))|(?=[.:,]))",  # not the article: "A good question"
        letter,
    )
    text = _with_letters(text, choices)
    for pattern in patterns:
        if found := re.search(pattern, text):
            return found[1]
    return None


def _with_letters(text: str, choices: Sequence[str]) -> str:
    """Every choice's words replaced by its letter; of two that begin at one place, the longer."""
    letter_of = {
        _levelled(choice): letter for letter, choice in reversed(_lettered(choices)) if choice.strip()
    }
    if not letter_of:
        return text
    longest_first = sorted({_plain(choice) for choice in choices if choice.strip()}, key=len, reverse=True)
    words = "|".join(map(re.escape, longest_first))
    # Letters of two cases may differ in number (ß, SS): such words stay as they are.
    return re.sub(
        rf"(?i)(?<!\w)(?:{words})(?!\w)", lambda found: letter_of.get(_levelled(found[0]), found[0]), text
    )


def _most_similar_choice(text: str, choices: Sequence[str]) -> str | None:
    given = _levelled(text)
    ratio_of = {
        letter: difflib.SequenceMatcher(None, _levelled(choice), given, autojunk=False).ratio()
        for letter, choice in _lettered(choices)
    }
    best = max(ratio_of, key=ratio_of.__getitem__)
    return best if ratio_of[best] > 0 else None


def _lettered(choices: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, choices, strict=False))
