"""Bytes as tokens of one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

_MAX_BYTES = 16  # of a token that is used


class Words:
    """`words`: by id, the bytes of each token in the middle of a text; none of a special token."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._words = words

    def bytes_of(self, token_id: int) -> bytes:
        """No bytes for an id without a token."""
        return self._words[token_id] if token_id < len(self._words) else b""

    def ids_of(self, data: bytes) -> list[int] | None:
        """The longest token at each place; None if there is none."""
        ids, start = [], 0
        while start < len(data):
            pieces = (data[start:end] for end in range(min(len(data), start + _MAX_BYTES), start, -1))
            piece = next((piece for piece in pieces if piece in self._ids), None)
            if piece is None:
                return None
            ids.append(self._ids[piece])
            start += len(piece)
        return ids

    @cached_property
    def _ids(self) -> Mapping[bytes, int]:
        """Of two tokens for the same bytes the later one: tokens for single bytes come first."""
        return {word: token_id for token_id, word in enumerate(self._words) if 0 < len(word) <= _MAX_BYTES}
