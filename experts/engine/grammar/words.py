"""Bytes as tokens of one vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

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
