"""Judges whether an answer is right, strictly and leniently, for free text and multiple choice."""

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

    Without choices, strictly: `text` is the right answer or the reference, with or without `query.written`
    before it; case, blanks and forms of characters (NFKC) do not matter. Leniently: the right answer occurs
    in it as a phrase. With choices: see `choose`.
    """
    assert query.answer is not None, "only a query with a right answer can be judged"
    rest = text.lstrip().removeprefix(query.written.lstrip())
    if query.choices:
        answer = _first_equal(query.answer.strip().upper(), query.choices)
        return choose(rest, query.choices, lenient) == answer
    right = _normalized(query.answer)
    # In a general query everything may be `written`, the answer included.
    if right in (_normalized(text), _normalized(rest)):
        return True
    if query.response and _normalized(rest) == _normalized(query.response):
        return True
    return lenient and _occurs(right, _normalized(text))


def choose(text: str, choices: Sequence[str], lenient: bool = False) -> str | None:
    """The letter (A, B, …) of the choice that `text` makes, or None. Of equal choices, the first letter.

    Strictly, the whole text must be a letter ("B", "(B)", "B.", "The answer is (B)"), alone or followed by
    that choice's text, or the text of exactly one choice. Two choices at once count as none.
    Leniently, for comparison with published figures, it follows the evaluation of the expert token routing
    paper: the choices' texts are replaced by their letters; then the first of "answer is X", "X is correct",
    a leading X and a single X counts, else the choice with the most similar text. Nearly every text makes
    some choice, so random text scores about as well as chance.
    """
    # The strict reading comes first, so that a strictly right answer is leniently right too.
    found = _explicit_choice(_normalized(text), choices)
    if lenient and not found:
        found = _mentioned_choice(_plain(text), choices) or _most_similar_choice(text, choices)
    return found and _first_equal(found, choices)


def _normalized(text: str) -> str:
    """`text` in one case and form. Case folding can undo NFKC, so `_plain` applies it again."""
    return _plain(unicodedata.normalize("NFKC", text).casefold())


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _occurs(phrase: str, text: str) -> bool:
    """Whether `phrase` occurs in `text` between ends of words or numbers.

    Signs that occur in the phrase may not continue it: "..." is not in "....", nor "C+" in "C++".
    """
    if not phrase:
        return False
    signs = "".join(re.escape(char) for char in sorted(set(phrase)) if not (char.isalnum() or char.isspace()))
    before = rf"(?<![\w{signs}])(?<!\d[.,])"
    after = rf"(?![\w{signs}]|[.,]\d)"
    return re.search(before + re.escape(phrase) + after, text) is not None


def _explicit_choice(text: str, choices: Sequence[str]) -> str | None:
    lettered = _lettered([_normalized(choice) for choice in choices])
    made = {letter for letter, choice in lettered if text and choice == text}
    if found := _EXPLICIT.fullmatch(text):
        letter, rest = (found["bracketed"] or found["bare"]).upper(), found["rest"]
        if rest is None:
            made |= {letter} & dict(lettered).keys()
        elif (letter, rest) in lettered:
            made.add(letter)
    made = {_first_equal(letter, choices) for letter in made}
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
    """`text` with the text of every choice replaced by its letter; the longest match wins."""
    letter_of = {
        _normalized(choice): letter for letter, choice in reversed(_lettered(choices)) if choice.strip()
    }
    if not letter_of:
        return text
    longest_first = sorted({_plain(choice) for choice in choices if choice.strip()}, key=len, reverse=True)
    words = "|".join(map(re.escape, longest_first))
    # Upper and lower case may differ in length (ß, SS); such words are not replaced.
    return re.sub(
        rf"(?i)(?<!\w)(?:{words})(?!\w)", lambda found: letter_of.get(_normalized(found[0]), found[0]), text
    )


def _most_similar_choice(text: str, choices: Sequence[str]) -> str | None:
    normalized = _normalized(text)
    ratio_of = {
        letter: difflib.SequenceMatcher(None, _normalized(choice), normalized, autojunk=False).ratio()
        for letter, choice in _lettered(choices)
    }
    best = max(ratio_of, key=ratio_of.__getitem__)
    return best if ratio_of[best] > 0 else None


def _first_equal(letter: str, choices: Sequence[str]) -> str:
    """The first letter whose choice has the same text as that of `letter`."""
    return ascii_uppercase[choices.index(choices[ascii_uppercase.index(letter)])]


def _lettered(choices: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, choices, strict=False))
