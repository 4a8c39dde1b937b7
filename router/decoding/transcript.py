"""The text of one answer: which model wrote which part, and how much of it the client may see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile

from router.model_port import ModelChunk, Resumed


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the visible answer written by one model; `probability` is that of its expert token."""

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
    tokenizer: str | None = None  # the one that `ids` belong to; None if unknown, or if there are several

    def add(self, chunk: ModelChunk) -> None:
        if chunk.tokenizer is not None and not self.num_tokens:
            self.tokenizer = chunk.tokenizer
        if chunk.tokenizer not in (None, self.tokenizer) or len(chunk.ids) != chunk.num_tokens:
            self.tokenizer = None
        self.num_tokens += chunk.num_tokens
        self.ids += chunk.ids


class Transcript:
    """Collects the text of all models and holds back what may be the beginning of a stop string.

    `text` is everything received; a failed model is resumed from there. The client sees the first
    `num_visible` characters, which never reach into a stop string. Stop strings match across models.
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
        """From here on, `model` writes. `probability` is that of its expert token, after a hand-over."""
        self._authors.append(_Author(model, len(self.text), probability))

    def add(self, chunk: ModelChunk) -> Iterator[tuple[str, str]]:
        """Append what the current model wrote; yields the (model, text) pairs that become visible."""
        self.text += chunk.text
        self._authors[-1].add(chunk)
        return self._show(self._safe_length())

    def split(self) -> tuple[str, Resumed | None]:
        """The text that the current model found, and the text and tokens that it wrote itself after that.

        If its tokens are not known, all text is in the first part. An expert that failed before it wrote
        anything does not count: the meta goes on with its own tokens.
        """
        texts = self._by_author(0, len(self.text))
        writers = [author for author, text in texts if text or author.num_tokens]
        model = self._authors[-1].model
        own = list(takewhile(lambda author: author.model == model, reversed(writers)))[::-1]
        tokenizers = {author.tokenizer for author in own}
        tokenizer = tokenizers.pop() if len(tokenizers) == 1 else None
        if tokenizer is None:
            return self.text, None
        ids = tuple(chain.from_iterable(author.ids for author in own))
        start = own[0].start
        return self.text[:start], Resumed(self.text[start:], ids, tokenizer)

    def close(self) -> Iterator[tuple[str, str]]:
        """End the answer. The text held back becomes visible, unless a stop string was found."""
        return self._show(self.num_visible if self.stopped else len(self.text))

    def spans(self) -> list[Span]:
        """The visible answer by model. The joined texts are exactly what the client got."""
        return [
            Span(author.model, text, author.num_tokens, author.probability)
            for author, text in self._by_author(0, self.num_visible)
            if text
        ]

    def _safe_length(self) -> int:
        """How much of the text may be shown: up to a stop string, or to what may be the beginning of one."""
        if not self._stop:
            return len(self.text)
        hits = [
            (start + len(s), start) for s in self._stop if (start := self.text.find(s, self.num_visible)) >= 0
        ]
        if hits:
            self.stopped = True
            # The one that ends first, so that the answer does not depend on how the text was cut into chunks.
            return min(hits)[1]
        longest = max(len(s) for s in self._stop)
        for start in range(max(self.num_visible, len(self.text) - longest + 1), len(self.text)):
            if any(s.startswith(self.text[start:]) for s in self._stop):
                return start
        return len(self.text)

    def _show(self, end: int) -> Iterator[tuple[str, str]]:
        start, self.num_visible = self.num_visible, end
        if start == end:
            return iter(())
        last = self._authors[-1]
        if start >= last.start:  # nearly always: else text was held back at a hand-over
            return iter(((last.model, self.text[start:end]),))
        return iter([(author.model, text) for author, text in self._by_author(start, end) if text])

    def _by_author(self, start: int, end: int) -> Iterator[tuple[_Author, str]]:
        bounds = [*(author.start for author in self._authors), len(self.text)]
        for author, author_end in zip(self._authors, bounds[1:], strict=True):
            yield author, self.text[max(start, author.start) : min(end, author_end)]
