"""The router's first port: a call of a model, wherever the model runs, and what it streams back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from router.parts import Part, TokenLogprobs
from router.prompt import Prompt
from router.routing_report import RoutingReport
from router.sampling import Sampling
from router.tasks import Detokenize, Task, Tokenize, TokenizedPrompt


class Finish(StrEnum):
    """Why a model stopped writing."""

    STOP = "stop"  # end of turn
    LENGTH = "length"  # the token budget or its context window is used up
    EXPERT = "expert"  # meta only: it chose the expert named by `ModelChunk.expert`, which must be called
    CANCELLED = "cancelled"  # the replica gave up the request, for example while shutting down


@dataclass(frozen=True, slots=True)
class Resumed:
    """What the model itself wrote last, as text and as the tokens that it chose.

    Tokenizing the text again may give other tokens. If `tokenizer` is not the model's own, because a rollout
    replaced it meanwhile, the model uses `text`.
    """

    text: str
    ids: tuple[int, ...]
    tokenizer: str


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call of one model.

    `written` is the text already in the open assistant turn, by any model. `resumed` follows it if the same
    model goes on with its own text. `position` is the length of both in tokens, for seeded sampling.
    `allowed` are the experts that the meta may hand over to, and `bias` is added to their logits. The meta
    knows the length of the prompt; it leaves out experts whose context window, in `windows`, is too small.
    Experts of `in_place`, each with its adapter's name, take over within this call.
    The meta scores `shadows` beside them, which never win. With `reports_start` it reports the candidates of
    its first decision, whatever it is.
    With `probe` nothing is written: the only chunk has the distribution over the allowed experts, and the
    expert that would take over, if any.
    A `task` takes the place of an answer: its result is one chunk, with a finish reason.
    What the model keeps of a prompt is found only by requests with the same `cache_salt`.
    `trace_headers` are passed on to servers that the model asks.
    `adapter` selects a model of an application that serves several (`ModelEntry.adapter`).
    `message_gap_s` is the longest time that text may wait to be sent with later text; the first text and the
    end are sent at once.
    """

    request_id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    written: str = ""
    resumed: Resumed | None = None
    position: int = 0
    allowed: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ()
    reports_start: bool = False
    windows: Mapping[str, int] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    in_place: Mapping[str, str] = field(default_factory=dict)
    only_at_start: bool = False
    probe: bool = False
    task: Task | None = None
    adapter: str | None = None
    cache_salt: str | None = None
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    message_gap_s: float = 0.0

    @property
    def runs_model(self) -> bool:
        """Whether a result shows that the replica can run its model."""
        return not isinstance(self.task, Tokenize | Detokenize)


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """What a model produced since the previous chunk; the last chunk has `finish`.

    `text` is whole characters, and `num_tokens` the number of tokens they took. A token whose character is
    incomplete belongs to a later chunk; otherwise a resumed answer would count it twice.
    `parts` say what the text consists of, as far as that is known: the end of the text may be held back for a
    later chunk. None means that the text is that of the answer.
    `logprobs` has an entry for each token, and `prompt_logprobs`, on the first chunk, for each token of the
    prompt, if the request asks for them.
    `ids` are those tokens, if the model knows them; `tokenizer`, on the first chunk, names the tokenizer that
    they belong to. None means that the ids cannot be used.
    `num_cached_tokens`, on the first chunk, is how many of the prompt's tokens were in the prefix cache.
    On the last chunk, `stop_token` is the one of `SamplingOptions.stop_token_ids` that ended the answer.
    `routing` is what the meta has to report of its decisions.
    `tokenized` and `vectors` are results of a task; a vector is its numbers as 32-bit floats, little-endian.
    An `expert` without `finish` takes over in place: the chunks that follow are its own, and the first of
    them has what the first chunk of a call has.
    On the first chunk, `queue_s` is the time in the engine's queue and `prefill_s` the time from there to the
    first token.
    """

    text: str = ""
    num_tokens: int = 0
    ids: tuple[int, ...] = ()
    parts: tuple[Part, ...] | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    tokenizer: str | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int = 0
    finish: Finish | None = None
    stop_token: int | None = None
    expert: str | None = None
    probability: float | None = None
    distribution: Mapping[str, float] | None = None
    routing: RoutingReport | None = None
    tokenized: TokenizedPrompt | None = None
    vectors: tuple[bytes, ...] = ()
    queue_s: float = 0.0
    prefill_s: float = 0.0

    @property
    def hands_over_in_place(self) -> bool:
        return self.expert is not None and self.finish is None


class Model(Protocol):
    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Stream one call. Closing the generator cancels the call and frees the replica's slot.

        Raises:
            RequestError: this model cannot serve the request: too long, or a parameter it does not support.
            ModelUnavailable: the replica is gone or busy; another may answer.
            ModelDied: the replica died during the call.
            ModelFailed: the engine raised an exception of its own.
        """
        ...


class Models(Protocol):
    """Finds a model by the name of its application."""

    def __getitem__(self, app: str) -> Model: ...
