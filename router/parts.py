"""What the text of a model consists of: the answer itself, thoughts, and tool calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Text of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A piece of a tool call. The first piece of call number `index` has the `name`; the `arguments` of all
    its pieces, joined, are JSON."""

    index: int
    name: str | None = None
    arguments: str = ""


Part = TextPart | ReasoningPart | ToolCallPart


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token, its bytes and the logarithm of its probability. A remote model does not tell its id."""

    token: str
    data: bytes
    logprob: float
    id: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token with its likeliest alternatives, in descending order. `logprob` is None for the first token
    of a prompt, which follows nothing."""

    token: str
    data: bytes
    logprob: float | None
    top: tuple[Alternative, ...] = ()
    id: int | None = None
