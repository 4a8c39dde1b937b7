"""Parsers of what one model writes: they turn its text into parts, piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from experts.engine.chunk import Part
from experts.engine.parsing.call_format import CallFormat, CallReader
from experts.engine.parsing.part_sink import PartSink
from experts.engine.parsing.source import BLANK, Steps, TextSource
from experts.engine.parsing.tool_schemas import ToolSchemas


class OutputParser(Protocol):
    """The parser of one generation.

    Its parts, joined, are the same however the text is cut. It holds back no more than what may be the
    beginning of a mark or of a call; text that begins like a call and is none comes out as text.
    """

    in_reasoning: bool  # whether the text so far ends among the model's thoughts

    def feed(self, text: str) -> tuple[Part, ...]:
        """The parts that are known with this text, which is the next one of the generation."""

    def close(self) -> tuple[Part, ...]:
        """What was held back; the generation has ended."""


class IncrementalParser(ABC):
    """An output parser that is one generator, which reads the text as if all of it were there."""

    in_reasoning = False

    def __init__(self, *, is_parallel: bool = True) -> None:
        """`is_parallel` off: calls after the first are dropped."""
        self.source = TextSource()
        self.sink = PartSink(self.source, is_parallel=is_parallel)
        self._steps = self.steps()

    def feed(self, text: str) -> tuple[Part, ...]:
        self.source.add(text)
        next(self._steps, None)
        return self.sink.take()

    def close(self) -> tuple[Part, ...]:
        self.source.close()
        next(self._steps, None)
        return self.sink.take()

    @abstractmethod
    def steps(self) -> Steps[None]:
        """Reads the whole source into the sink."""


@dataclass(frozen=True, slots=True)
class ThinkMarks:
    """The marks around a model's thoughts.

    Attributes:
        start: Before the thoughts, at the beginning of the answer or at the end of the prompt.
        end: After them.
        ends_with_call: A tool call among the thoughts ends them, because the model may leave out `end`.
        may_lack_start: The model may begin to think without `start`.
    """

    start: str
    end: str
    ends_with_call: bool = False
    may_lack_start: bool = False

    def is_open(self, prompt_tail: str, *, has_answer: bool) -> bool:
        """Whether thoughts are open at the end of the prompt. `has_answer`: the answer has begun there."""
        tail = prompt_tail.rstrip()
        return tail.endswith(self.start) or (
            self.may_lack_start and not has_answer and not tail.endswith(self.end)
        )


class MarkedParser(IncrementalParser):
    """Thoughts between marks first, then text and tool calls. Either may be None: then it is not sought."""

    def __init__(
        self,
        think: ThinkMarks | None,
        calls: CallFormat | None,
        tools: ToolSchemas,
        *,
        is_open: bool = False,
        is_parallel: bool = True,
        has_form: bool = False,
    ) -> None:
        """`is_open`: the thoughts have begun in the prompt. `has_form`: an answer that does not begin with a
        call has none."""
        super().__init__(is_parallel=is_parallel)
        self.in_reasoning = is_open
        self._think = think
        self._calls = calls or CallFormat()
        self._has_form = has_form
        self._reader = CallReader(self.source, self.sink, tools)

    def steps(self) -> Steps[None]:
        if self._think:
            yield from self._thoughts(self._think)
        if self._calls.begins or self._calls.openers:
            yield from self._answer()
        yield from self.source.until((), self.sink.text)

    def _thoughts(self, think: ThinkMarks) -> Steps[None]:
        yield from self.source.take(BLANK)
        if (yield from self.source.accept(think.start)):
            self.in_reasoning = True
            self.source.commit()
        self.source.rewind()
        marks = (think.end, *(self._calls.begins if think.ends_with_call else ()))
        while self.in_reasoning:
            mark = yield from self.source.until(marks, self.sink.reasoning)
            if not mark:
                return
            if mark == think.end:
                self.source.skip(mark)
                self.source.commit()
                self.in_reasoning = False
            elif (yield from self._calls.read(mark, self._reader)):
                self.in_reasoning = False
            else:
                self.sink.reasoning(self.source.skip(mark))

    def _answer(self) -> Steps[None]:
        """Text and calls. Blanks before a call and after the last one belong to neither."""
        calls = self._calls
        while True:
            blank = yield from self.source.take(BLANK)
            mark = yield from self.source.ahead((*calls.begins, *calls.openers))
            if mark and (yield from calls.read(mark, self._reader)):
                continue
            if not self.sink.num_calls or (yield from self.source.peek()):
                self.sink.text(blank)
            if self._has_form or not (yield from self._text(mark)):
                return

    def _text(self, mark: str) -> Steps[bool]:
        """Text from `mark` on, which begins no call, up to the end of the next call; False if none comes."""
        while True:
            self.sink.text(self.source.skip(mark))
            mark = yield from self.source.until(self._calls.begins, self.sink.text)
            if not mark:
                return False
            if (yield from self._calls.read(mark, self._reader)):
                return True
