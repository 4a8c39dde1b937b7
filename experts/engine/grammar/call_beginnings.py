"""How tool calls begin, where an answer is either a call or matches a grammar."""

from __future__ import annotations

from collections.abc import Sequence

from experts.engine.grammar.words import Words
from experts.text.decoder import TokenDecoder


class CallBeginnings:
    """`marks`: with one of them a call begins; `decoder` shows them."""

    def __init__(self, marks: Sequence[str], words: Words, decoder: TokenDecoder) -> None:
        self._marks = [mark.encode() for mark in marks]
        self._words = words
        self._decoder = decoder

    def has_begun(self, text: bytes) -> bool:
        """Whether the text begins with a call."""
        return any(text.startswith(mark) for mark in self._marks)

    def may_begin(self, text: bytes) -> bool:
        """Whether the text begins with a call, or may once it is longer."""
        return self.has_begun(text) or any(mark.startswith(text) for mark in self._marks)

    def next_ids(self, text: bytes) -> list[int]:
        """The tokens after which the text still may begin with a call."""
        found = []
        for rest in {mark[len(text) :] for mark in self._marks if mark.startswith(text) and mark != text}:
            found += self._words.beginning(rest)
            found += [i for i in self._decoder.shown_ids if rest.startswith(self._decoder.bytes_of(i))]
        return found
