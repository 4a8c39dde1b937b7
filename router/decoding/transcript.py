"""The text of one answer: which model wrote which part, and how much of it the client may see."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile

from router.decoding.delta import Delta, PromptDelta, ReasoningDelta, TextDelta, ToolCallDelta
from router.model_port import ModelChunk, Resumed
from router.parts import Part, TextPart, TokenLogprobs, ToolCallPart


@dataclass(frozen=True, slots=True)
class StopRule:
    """The answer ends at the first of `strings` after `min_tokens`. If `included`, the client sees it."""

    strings: tuple[str, ...] = ()
    included: bool = False
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """What one model wrote. `probability` is that of its expert token."""

    model: str
    text: str
    num_tokens: int
    probability: float | None


@dataclass(slots=True)
class _Author:
    """`raw` is what the model wrote, where that is not the answer's own text: with thoughts or tool calls."""

    model: str
    start: int
    probability: float | None
    num_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    tokenizer: str | None = None  # the one that `ids` belong to; None if unknown, or if there are several
    raw: str | None = None
    has_ended: bool = False

    def add(self, chunk: ModelChunk) -> None:
        if chunk.tokenizer is not None and not self.num_tokens:
            self.tokenizer = chunk.tokenizer
        if chunk.tokenizer not in (None, self.tokenizer) or len(chunk.ids) != chunk.num_tokens:
            self.tokenizer = None
        self.num_tokens += chunk.num_tokens
        self.ids += chunk.ids
        self.has_ended = chunk.finish is not None


class Transcript:
    """Collects the text of all models and holds back what may be the beginning of a stop string.

    `text` is the answer's text as far as it was received; thoughts and tool calls are not part of it. The
    client sees the first `num_visible` characters, which never reach into a stop string. Stop strings match
    across models.
    """

    def __init__(self, stop: StopRule = StopRule()) -> None:
        self.text = ""
        self.num_visible = 0
        self.stopped = False
        self.stop_reason: str | int | None = None
        self.has_tool_calls = False
        self._stop = tuple(s for s in stop.strings if s)
        self._stop_is_included = stop.included
        self._min_tokens = stop.min_tokens
        self._authors: list[_Author] = []
        # Those not shown yet, each with where the text of its token ends.
        self._logprobs: deque[tuple[int, TokenLogprobs]] = deque()

    @property
    def num_tokens(self) -> int:
        return sum(author.num_tokens for author in self._authors)

    @property
    def authors(self) -> list[str]:
        """The models that have written, in order."""
        return [author.model for author in self._authors if author.num_tokens]

    @property
    def is_returned(self) -> bool:
        """Whether the model before the current one has ended its turn, and this one has written nothing."""
        *_, before, current = (None, *self._authors)
        has_ended = before is not None and before.has_ended and before.num_tokens > 0
        return has_ended and not current.num_tokens

    def begin(self, model: str, probability: float | None = None) -> None:
        """From here on, `model` writes. `probability` is that of its expert token, after a hand-over."""
        self._authors.append(_Author(model, len(self.text), probability))

    def add(self, chunk: ModelChunk) -> Iterable[Delta]:
        """Append what the current model wrote; returns what becomes visible."""
        author = self._authors[-1]
        author.add(chunk)
        if chunk.stop_token is not None:
            self.stop_reason = chunk.stop_token
        if chunk.parts is None and not chunk.logprobs and not chunk.prompt_logprobs:  # nearly always
            self.text += chunk.text
            return self._show(self._safe_length())
        return list(self._add_parts(author, chunk))

    def split(self) -> tuple[str, Resumed | None]:
        """The text that the current model found, and the text and tokens that it wrote itself after that.

        If its tokens are not known, all text is in the first part. An expert that failed before it wrote
        anything does not count: the meta goes on with its own tokens.
        """
        texts = self._by_author(0, len(self.text))
        writers = [(author, text) for author, text in texts if text or author.num_tokens]
        model = self._authors[-1].model
        own = list(takewhile(lambda writer: writer[0].model == model, reversed(writers)))[::-1]
        tokenizers = {author.tokenizer for author, _ in own}
        tokenizer = tokenizers.pop() if len(tokenizers) == 1 else None
        if tokenizer is None:
            return self.text, None
        ids = tuple(chain.from_iterable(author.ids for author, _ in own))
        raw = "".join(text if author.raw is None else author.raw for author, text in own)
        return self.text[: own[0][0].start], Resumed(raw, ids, tokenizer)

    def has_lost_form(self, changes_author: bool) -> bool:
        """Whether a half-written tool call, or the state of a grammar, cannot be continued: another model
        would go on, or the same one from text, which may be read as other tokens."""
        return self.num_tokens > 0 and (changes_author or self.split()[1] is None)

    def close(self) -> Iterable[Delta]:
        """End the answer. The text held back becomes visible, unless a stop string was found."""
        return self._show(self.num_visible if self.stopped else len(self.text))

    def spans(self) -> list[Span]:
        """The visible answer by model. The joined texts are exactly what the client got.

        An expert that was called and wrote nothing has an empty span; one that failed has none.
        """
        return [
            Span(author.model, text, author.num_tokens, author.probability)
            for author, text in self._by_author(0, self.num_visible)
            if text or (author.has_ended and not author.num_tokens and author.probability is not None)
        ]

    def _add_parts(self, author: _Author, chunk: ModelChunk) -> Iterator[Delta]:
        if chunk.prompt_logprobs:
            yield PromptDelta(chunk.prompt_logprobs, author.model)
        if chunk.parts is not None and author.raw is None:
            author.raw = self.text[author.start :]
        if author.raw is not None:
            author.raw += chunk.text
        parts = (TextPart(chunk.text),) if chunk.parts is None else chunk.parts
        self._hold(chunk.logprobs, sum(len(part.text) for part in parts if isinstance(part, TextPart)))
        for part in parts:
            if isinstance(part, TextPart):
                self.text += part.text
            if not self.stopped:  # nothing after a stop string belongs to the answer
                yield from self._shown(part, author.model)
        if not self.stopped:
            yield from self._show(self._safe_length())  # log-probabilities of thoughts may wait

    def _shown(self, part: Part, model: str) -> Iterator[Delta]:
        if isinstance(part, TextPart):
            yield from self._show(self._safe_length())
            return
        # A stop string does not reach over thoughts or calls: what may be its beginning comes before them.
        yield from self._show(len(self.text))
        if isinstance(part, ToolCallPart):
            yield self._tool_call(part, model)
        else:
            yield ReasoningDelta(part.text, model)

    def _tool_call(self, part: ToolCallPart, model: str) -> ToolCallDelta:
        self.has_tool_calls = True
        # Every router knows from the id which model has to get the result.
        call_id = None if part.name is None else new_call_id(model)
        return ToolCallDelta(part.index, call_id, part.name, part.arguments, model)

    def _hold(self, logprobs: Iterable[TokenLogprobs], num_chars: int) -> None:
        """The next `num_chars` characters are of these tokens. Log-probabilities wait until the text of their
        token is visible."""
        start, end = len(self.text), len(self.text) + num_chars
        for token in logprobs:
            start += len(token.token)
            self._logprobs.append((min(start, end), token))

    def _safe_length(self) -> int:
        """How much of the text may be shown: up to a stop string, or to what may be the beginning of one."""
        if not self._stop or 0 < self.num_tokens <= self._min_tokens:
            return len(self.text)
        hits = [
            (start + len(s), start, s)
            for s in self._stop
            if (start := self.text.find(s, self.num_visible)) >= 0
        ]
        if hits:
            # The one that ends first, so that the answer does not depend on how the text was cut into chunks.
            end, start, self.stop_reason = min(hits)
            self.stopped = True
            return end if self._stop_is_included else start
        longest = max(len(s) for s in self._stop)
        for start in range(max(self.num_visible, len(self.text) - longest + 1), len(self.text)):
            if any(s.startswith(self.text[start:]) for s in self._stop):
                return start
        return len(self.text)

    def _show(self, end: int) -> Iterable[TextDelta]:
        start, self.num_visible = self.num_visible, end
        if start == end and not self._logprobs:
            return ()
        last = self._authors[-1]
        if start >= last.start and not self._logprobs:  # nearly always: else text waited at a hand-over
            return (TextDelta(self.text[start:end], last.model),)
        shown = [TextDelta(text, author.model) for author, text in self._by_author(start, end) if text]
        logprobs = tuple(self._visible_logprobs())
        if not logprobs:
            return shown
        shown = shown or [TextDelta("", last.model)]
        return [*shown[:-1], replace(shown[-1], logprobs=logprobs)]

    def _visible_logprobs(self) -> Iterator[TokenLogprobs]:
        while self._logprobs and self._logprobs[0][0] <= self.num_visible:
            yield self._logprobs.popleft()[1]

    def _by_author(self, start: int, end: int) -> Iterator[tuple[_Author, str]]:
        bounds = [*(author.start for author in self._authors), len(self.text)]
        for author, author_end in zip(self._authors, bounds[1:], strict=True):
            yield author, self.text[max(start, author.start) : min(end, author_end)]


def new_call_id(model: str) -> str:
    return f"call_{model}_{uuid.uuid4().hex[:16]}"


def author_of_call(call_id: str) -> str | None:
    """The model that made the tool call with this id; None if no model here did."""
    prefix, _, number = call_id.removeprefix("call_").rpartition("_")
    return prefix if call_id.startswith("call_") and prefix and number else None
