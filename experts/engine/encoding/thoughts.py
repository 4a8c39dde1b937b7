"""Whether a model thinks at a position: where experts never take over."""

from __future__ import annotations

from dataclasses import dataclass

from experts.engine.parsing.output_parser import OutputParser
from experts.engine.parsing.registry import ParserChoice
from experts.engine.parsing.tool_schemas import ToolSchemas
from experts.engine.request import ChatOptions, EngineRequest


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """Plain data from which each process that decides can follow the thoughts of one generation.

    Attributes:
        reasoning_parser: A name of `REASONING_PARSERS`.
        prompt_tail: The end of the prompt's text, without `resumed`.
        has_answer: Text of the answer stands in the prompt already.
        resumed: What the model itself wrote after the prompt.
    """

    reasoning_parser: str
    prompt_tail: str
    has_answer: bool
    resumed: str

    def tracker(self) -> ThoughtTracker:
        return ThoughtTracker(self)


class ThoughtTracker:
    """Reads the tokens of a generation as they come."""

    def __init__(self, marks: ThoughtMarks) -> None:
        request = EngineRequest("", messages=(), written="written" if marks.has_answer else "")
        choice = ParserChoice(reasoning_parser=marks.reasoning_parser)
        parser = choice.format_parser(request, ChatOptions(), ToolSchemas(()), marks.prompt_tail)
        assert parser is not None, "the model has a reasoning parser"
        self._parser: OutputParser = parser
        self._has_begun = bool(marks.resumed)
        parser.feed(marks.resumed)

    @property
    def is_inside(self) -> bool:
        """Whether the next token is a thought. Before the first token it is not, even if the prompt opens the
        thoughts: that is the position at which the meta decides who answers."""
        return self._has_begun and self._parser.in_reasoning

    @property
    def is_open(self) -> bool:
        """Whether the next token is a thought, also if it is the first one."""
        return self._parser.in_reasoning

    def add(self, data: bytes) -> None:
        """`data`: the bytes of the latest token."""
        self._has_begun = True
        self._parser.feed(data.decode("utf-8", "replace"))
