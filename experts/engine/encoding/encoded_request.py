"""A request as an engine runs it."""

from __future__ import annotations

from dataclasses import dataclass

from experts.engine.encoding.thoughts import ThoughtMarks
from experts.engine.parsing.part_stream import PartStream
from experts.engine.request import EngineRequest
from experts.text.decoder import TokenDecoder


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """What a tokenizer makes of a request.

    Attributes:
        request: With the grammar of the calls that it forces, and without experts that are too small.
        prompt: Its token ids, with everything that stands in the open turn.
        decoder: Turns the new tokens into text.
        parts: Finds thoughts and tool calls in that text. None: all of it is the answer's.
        call_beginnings: Of a call that may take the place of an answer under a grammar.
        thoughts: None: the model does not think, or nothing depends on it: neither a hand-over nor a grammar.
    """

    request: EngineRequest
    prompt: list[int]
    decoder: TokenDecoder
    parts: PartStream | None = None
    thoughts: ThoughtMarks | None = None
    call_beginnings: tuple[str, ...] = ()
