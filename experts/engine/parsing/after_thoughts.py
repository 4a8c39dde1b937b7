"""An answer in a form of its own, behind the model's thoughts."""

from __future__ import annotations

from experts.engine.chunk import Part, TextPart
from experts.engine.parsing.output_parser import OutputParser


class AfterThoughts:
    """What `thoughts` finds to be text is read by `answer`."""

    def __init__(self, thoughts: OutputParser, answer: OutputParser) -> None:
        self._thoughts = thoughts
        self._answer = answer
        self.in_reasoning = thoughts.in_reasoning

    def feed(self, text: str) -> tuple[Part, ...]:
        return self._read(self._thoughts.feed(text))

    def close(self) -> tuple[Part, ...]:
        return self._read(self._thoughts.close()) + self._answer.close()

    def _read(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        self.in_reasoning = self._thoughts.in_reasoning
        return tuple(
            read
            for part in parts
            for read in (self._answer.feed(part.text) if isinstance(part, TextPart) else (part,))
        )
