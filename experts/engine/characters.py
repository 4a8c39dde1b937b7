"""Characters in tokens: where one is half written, no other model could go on."""

from __future__ import annotations

from collections.abc import Callable

MAX_CHARACTER_TOKENS = 4  # bytes of the longest UTF-8 character, so of its tokens too


def partial_character(tokens: list[int], decode: Callable[[list[int]], object]) -> list[int]:
    """`tokens`, the last of a text, if they are not a whole character yet; else none."""
    if len(tokens) < MAX_CHARACTER_TOKENS and str(decode(tokens)).endswith("\ufffd"):
        return tokens
    return []
