"""Bytes as tokens of one vocabulary."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property

_MAX_BYTES = 16  # of a token that is used


class Words:
    """`words`: by id, the bytes of each token in the middle of a text; none of a special token."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._words = words
        # Of two tokens for the same bytes the later one: tokens for single bytes come first.
        self._ids = {word: i for i, word in enumerate(words) if 0 < len(word) <= _MAX_BYTES}

    def bytes_of(self, token_id: int) -> bytes:
        """No bytes for an id without a token."""
        return self._words[token_id] if token_id < len(self._words) else b""

    def beginning(self, data: bytes) -> list[int]:
        """The tokens that may come first in a text whose first bytes are `data`, UTF-8: those that begin with
        it, and those that it begins with."""
        words, ids = self._sorted
        start, end = bisect_left(words, data), bisect_left(words, data[:-1] + bytes([data[-1] + 1]))
        found = ids[start:end]
        for num in range(1, len(data)):
            found += ids[bisect_left(words, data[:num]) : bisect_right(words, data[:num])]
        return found

    @cached_property
    def _sorted(self) -> tuple[list[bytes], list[int]]:
        ids = sorted(range(len(self._words)), key=self._words.__getitem__)
        return [self._words[i] for i in ids], ids

    def ids_of(self, data: bytes) -> list[int] | None:
        """The longest token at each place; None if there is none."""
        ids, start, id_of = [], 0, self._ids
        while start < len(data):
            piece = data[start : start + _MAX_BYTES]
            while piece and piece not in id_of:
                piece = piece[:-1]
            if not piece:
                return None
            ids.append(id_of[piece])
            start += len(piece)
        return ids
