"""What a client may see of an answer while it is written, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

from router.parts import TokenLogprobs


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text of the answer. `logprobs` are those of tokens whose text has been shown with it, or before."""

    text: str
    model: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of what the model thinks."""

    text: str
    model: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of tool call number `index`; the first one has `id` and `name`."""

    index: int
    id: str | None
    name: str | None
    arguments: str
    model: str


@dataclass(frozen=True, slots=True)
class PromptDelta:
    """The log-probabilities of the prompt's tokens, before anything else."""

    logprobs: tuple[TokenLogprobs, ...]
    model: str


Delta = TextDelta | ReasoningDelta | ToolCallDelta | PromptDelta
