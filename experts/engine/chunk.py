"""What an engine streams back: text as the model wrote it, and the parts that this text consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from operator import attrgetter

from experts.engine.routing_report import RoutingReport
from experts.engine.tasks import TokenizedPrompt


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its turn
    LENGTH = "length"  # `max_tokens` were generated, or the context window is full
    EXPERT = "expert"  # an expert's token won; `EngineChunk.expert` names it
    CANCELLED = "cancelled"  # the engine shut down during the generation


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


@dataclass(frozen=True, slots=True)
class EngineChunk:
    """What was generated since the previous chunk; never part of a character.

    Attributes:
        text: As the model wrote it, with the marks of thoughts and tool calls. May be empty.
        token_ids: Of `text`; they lie below the size of the vocabulary.
        num_unnamed_tokens: Number of tokens, from an engine that does not know their ids.
        parts: What `text` consists of, as far as that is known: the end of the text may be held back for a
            later chunk. None: the text is that of the answer.
        logprobs: One entry for each token of `token_ids`, if the request asks for them.
        prompt_logprobs: One entry for each token of the prompt, if asked for. First chunk only.
        tokenizer: Fingerprint of the tokenizer of `token_ids`. First chunk of each writer only.
        num_prompt_tokens: Length of the prompt. On the first chunk, or on the last from a remote server; on
            the first chunk after a hand-over in place, the number of tokens that the expert has read.
        num_cached_tokens: How many of these tokens were in the prefix cache. First chunk only.
        finish: Why the generation ended. Last chunk only.
        stop_token: The token of `SamplingOptions.stop_token_ids` that ended the answer. Last chunk only.
        expert: The expert that takes over. If `finish` is None, it does so in place: the chunks that follow
            are its own.
        probability: Of that expert, in a softmax over all words and allowed experts.
        distribution: Probability of each allowed expert. Answer to a probe only.
        routing: What there is to report of the meta's decisions; None: nothing.
        tokenized: Result of the task `Tokenize`.
        vectors: Result of the task `Embed`: the numbers of each input, as 32-bit floats, little-endian.
        queue_s: Time from the request until the prefill began. First chunk only.
        prefill_s: Time from there to the first token. First chunk only.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    num_unnamed_tokens: int = 0
    parts: tuple[Part, ...] | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    tokenizer: str | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int = 0
    finish: FinishReason | None = None
    stop_token: int | None = None
    expert: str | None = None
    probability: float | None = None
    distribution: Mapping[str, float] | None = None
    routing: RoutingReport | None = None
    tokenized: TokenizedPrompt | None = None
    vectors: tuple[bytes, ...] = ()
    queue_s: float = 0.0
    prefill_s: float = 0.0

    def __reduce__(self) -> tuple[type[EngineChunk], tuple[object, ...]]:
        # Faster than the default of dataclasses with slots, which goes through the fields in Python.
        return EngineChunk, _field_values(self)

    def followed_by(self, later: EngineChunk) -> EngineChunk:
        """Both chunks as one. No writer has to have changed between them."""
        return replace(
            later,
            text=self.text + later.text,
            token_ids=self.token_ids + later.token_ids,
            num_unnamed_tokens=self.num_unnamed_tokens + later.num_unnamed_tokens,
            parts=None if self.parts is None is later.parts else _parts(self) + _parts(later),
            logprobs=self.logprobs + later.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            tokenizer=self.tokenizer or later.tokenizer,
            num_prompt_tokens=self.num_prompt_tokens or later.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens,
            routing=later.routing if self.routing is None else self.routing.followed_by(later.routing),
            queue_s=self.queue_s,
            prefill_s=self.prefill_s,
        )

    def with_times(self, since_received_s: float, since_scheduled_s: float) -> EngineChunk:
        """A copy for the first chunk. Both times end now: they begin when the engine got the request, and
        when it began the prefill."""
        queue_s = max(0.0, since_received_s - since_scheduled_s)
        return replace(self, queue_s=queue_s, prefill_s=since_scheduled_s)


def _parts(chunk: EngineChunk) -> tuple[Part, ...]:
    if chunk.parts is not None:
        return chunk.parts
    return (TextPart(chunk.text),) if chunk.text else ()


_field_values = attrgetter(*(each.name for each in fields(EngineChunk)))
