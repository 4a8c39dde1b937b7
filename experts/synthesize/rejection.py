"""Why a synthesised text is no question to learn from."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

MIN_WORDS = 2
MIN_CHARS = 8
MAX_CHARS = 400
_BREAKS = "\n\t"
_REPLACEMENT = "\ufffd"  # stands for bytes that are no whole character
# Four times in a row, and long: "1000000" and "very, very good" are no loops.
_LOOP = re.compile(r"(.{1,80}?)\1{3,}", re.DOTALL)
_MIN_LOOP_CHARS = 16


class Rejection(StrEnum):
    """In the order of the checks."""

    LENGTH = "too short or long"
    GARBLED = "garbled"
    REPEATED = "repeated"
    UNLIKELY = "unlike a question"
    MARGIN = "too general"


def text_rejection(text: str | None) -> Rejection | None:
    """What is wrong with `text` itself; None if nothing is. A `text` of None had no end."""
    if text is None or not MIN_CHARS <= len(text) <= MAX_CHARS or len(text.split()) < MIN_WORDS:
        return Rejection.LENGTH
    if _has_loop(text) or any(_is_control(char) for char in text):
        return Rejection.GARBLED
    return None


def normalised(text: str) -> str:
    """Equal for texts that differ only in case, blanks, or compatible characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _has_loop(text: str) -> bool:
    """Whether a piece of the text follows itself over and over."""
    return any(len(match[0]) >= _MIN_LOOP_CHARS for match in _LOOP.finditer(text))


def _is_control(char: str) -> bool:
    # Not Cf: it has the joiners of many scripts and of emoji.
    return char == _REPLACEMENT or (unicodedata.category(char) in {"Cc", "Cn", "Co"} and char not in _BREAKS)
