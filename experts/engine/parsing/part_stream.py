"""Adds to the chunks of one generation the parts that their text consists of."""

from __future__ import annotations

from dataclasses import replace

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.parsing.output_parser import OutputParser

_ENDS = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.EXPERT)


class PartStream:
    """`resumed` is what the model had written of this answer before its replica was lost. The parser reads it
    again, and so has the state that it had there; the client has those parts already."""

    def __init__(self, parser: OutputParser, resumed: str = "") -> None:
        self._parser = parser
        if resumed:
            parser.feed(resumed)

    def add(self, chunk: EngineChunk) -> EngineChunk:
        """The chunk with its parts, and where this writer ends with what was held back."""
        parts = self._parser.feed(chunk.text) if chunk.text else ()
        if chunk.finish in _ENDS or chunk.expert is not None:
            parts += self._parser.close()
        return replace(chunk, parts=parts)
