"""The text of one answer: who wrote which part, and how much of it the client may see yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from router.model import Piece, Resumed


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the visible answer written by one model; `probability` is that of its expert token."""

    model: str
    text: str
    num_tokens: int
    probability: float | None


@dataclass(slots=True)
class _Author:
    model: str
    start: int
    probability: float | None
    num_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    tokenizer: str | None = None  # whose `ids` are; None once they are not one tokenizer's

    def take(self, piece: Piece) -> None:
        if piece.tokenizer is not None and not self.num_tokens:
            self.tokenizer = piece.tokenizer
        if piece.tokenizer not in (None, self.tokenizer) or len(piece.ids) != piece.num_tokens:
            self.tokenizer = None
        self.num_tokens += piece.num_tokens
        self.ids += piece.ids


class Transcript:
    """Collects text over hand-overs and holds back what could still become a stop string.

    Everything received is in `text`, and a failed model is resumed from there; the client sees `text` up to
    `num_visible`, never past a stop string. Stop strings match across authors.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.num_visible = 0
        self.stopped = False
        self._stop = tuple(s for s in stop if s)
        self._authors: list[_Author] = []

    @property
    def num_tokens(self) -> int:
        return sum(author.num_tokens for author in self._authors)

    def begin(self, model: str, probability: float | None = None) -> None:
        """`model` writes from here on."""
        self._authors.append(_Author(model, len(self.text), probability))

    def add(self, piece: Piece) -> Iterator[tuple[str, str]]:
        """Append what the current author wrote; yields the newly visible (model, text) pairs."""
        self.text += piece.text
        self._authors[-1].take(piece)
        return self._show(self._safe_length())

    def split(self) -> tuple[str, Resumed | None]:
        """What the current author found, and what it wrote itself; in one where its tokens are unknown."""
        author = self._authors[-1]
        if not author.num_tokens or author.tokenizer is None:
            return self.text, None
        own = Resumed(self.text[author.start :], tuple(author.ids), author.tokenizer)
        return self.text[: author.start], own

    def close(self) -> Iterator[tuple[str, str]]:
        """The answer is over: what was held back is shown, unless a stop string ended it."""
        return self._show(self.num_visible if self.stopped else len(self.text))

    def spans(self) -> list[Span]:
        """The visible answer by author; joined, it is exactly what the client got."""
        return [
            Span(author.model, text, author.num_tokens, author.probability)
            for author, text in self._pieces(0, self.num_visible)
            if text
        ]

    def _safe_length(self) -> int:
        """How much of the text is final: up to a stop string, or to what may be the beginning of one."""
        if not self._stop:
            return len(self.text)
        hits = [(at + len(s), at) for s in self._stop if (at := self.text.find(s, self.num_visible)) >= 0]
        if hits:
            self.stopped = True
            # The one complete first, so that the answer does not depend on how the text was cut into pieces.
            return min(hits)[1]
        longest = max(len(s) for s in self._stop)
        for at in range(max(self.num_visible, len(self.text) - longest + 1), len(self.text)):
            if any(s.startswith(self.text[at:]) for s in self._stop):
                return at
        return len(self.text)

    def _show(self, end: int) -> Iterator[tuple[str, str]]:
        start, self.num_visible = self.num_visible, end
        if start == end:
            return iter(())
        last = self._authors[-1]
        if start >= last.start:  # so it is but for what was held back at a hand-over
            return iter(((last.model, self.text[start:end]),))
        return iter([(author.model, text) for author, text in self._pieces(start, end) if text])

    def _pieces(self, start: int, end: int) -> Iterator[tuple[_Author, str]]:
        bounds = [*(author.start for author in self._authors), len(self.text)]
        for author, author_end in zip(self._authors, bounds[1:], strict=True):
            yield author, self.text[max(start, author.start) : min(end, author_end)]
