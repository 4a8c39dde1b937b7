"""The interface that every engine implements, and its requests and chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # the router uses this module too, and must not import torch
    from experts.token import ExpertToken


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its turn
    LENGTH = "length"  # `max_tokens` were generated, or the context window is full
    EXPERT = "expert"  # an expert's token won; `EngineChunk.expert` names it
    CANCELLED = "cancelled"  # the engine shut down during the generation


@dataclass(frozen=True, slots=True)
class Resumed:
    """What this model had written of the answer before its replica was lost: the text, and its token ids.

    The ids are used if `tokenizer` is the engine's own fingerprint (`EngineChunk.tokenizer`), because text
    that is tokenized again may give other ids. Otherwise the text is used.
    """

    text: str
    ids: tuple[int, ...]
    tokenizer: str


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One generation.

    Attributes:
        request_id: For logs; two requests may have the same id.
        messages: A conversation of `{"role": …, "content": …}`. Exactly one of `messages`, `text` and `ids`
            is given.
        text: A raw prompt.
        ids: A raw prompt as token ids.
        written: Text that already stands in the open assistant turn, or after the raw prompt.
        resumed: What follows `written`, if this model's replica was lost in the middle of the answer.
        position: Number of tokens in `written` and `resumed`. Seeded sampling of token number p depends only
            on (`seed`, p), so a resumed generation continues as if it had not been interrupted.
        max_tokens: Maximum number of new tokens. None: until the context window is full.
        temperature: 0 is greedy.
        top_p: 1 is off.
        top_k: 0 is off.
        seed: None: the engine chooses one.
        allowed: The experts that may take over.
        bias: Added to the logits of these experts.
        only_at_start: An expert may take over only at the first token.
        probe: Generate nothing; return the distribution over the allowed experts at the first position.
        adapter: The LoRA adapter to use, which the engine has loaded. None: the model without an adapter.
        message_gap_s: Not for the engine: its replica may merge chunks that are closer in time than this.
    """

    request_id: str
    messages: tuple[Mapping[str, str], ...] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    written: str = ""
    resumed: Resumed | None = None
    position: int = 0
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    allowed: tuple[str, ...] = ()
    bias: Mapping[str, float] = field(default_factory=dict)
    only_at_start: bool = False
    probe: bool = False
    adapter: str | None = None
    message_gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineChunk:
    """What was generated since the previous chunk; never part of a character.

    Attributes:
        text: May be empty.
        token_ids: Of `text`; they lie below the size of the vocabulary.
        num_unnamed_tokens: Number of tokens, from an engine that does not know their ids.
        tokenizer: Fingerprint of the tokenizer of `token_ids`. First chunk only.
        num_prompt_tokens: Length of the prompt. On the first chunk, or on the last from a remote server.
        finish: Why the generation ended. Last chunk only.
        expert: The expert that takes over, if `finish` is EXPERT.
        probability: Of that expert, in a softmax over all words and allowed experts.
        distribution: Probability of each allowed expert. Answer to a probe only.
        queue_s: Time from the request until the prefill began. First chunk only.
        prefill_s: Time from there to the first token. First chunk only.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    num_unnamed_tokens: int = 0
    tokenizer: str | None = None
    num_prompt_tokens: int | None = None
    finish: FinishReason | None = None
    expert: str | None = None
    probability: float | None = None
    distribution: Mapping[str, float] | None = None
    queue_s: float = 0.0
    prefill_s: float = 0.0

    def __reduce__(self) -> tuple[type[EngineChunk], tuple[object, ...]]:
        # Faster than the default of dataclasses with slots, which goes through the fields in Python.
        return EngineChunk, _field_values(self)

    def followed_by(self, later: EngineChunk) -> EngineChunk:
        """Both chunks as one."""
        return replace(
            later,
            text=self.text + later.text,
            token_ids=self.token_ids + later.token_ids,
            num_unnamed_tokens=self.num_unnamed_tokens + later.num_unnamed_tokens,
            tokenizer=self.tokenizer or later.tokenizer,
            num_prompt_tokens=self.num_prompt_tokens or later.num_prompt_tokens,
            queue_s=self.queue_s,
            prefill_s=self.prefill_s,
        )

    def with_times(self, since_received_s: float, since_scheduled_s: float) -> EngineChunk:
        """A copy for the first chunk. Both times end now: they begin when the engine got the request, and
        when it began the prefill."""
        queue_s = max(0.0, since_received_s - since_scheduled_s)
        return replace(self, queue_s=queue_s, prefill_s=since_scheduled_s)


_field_values = attrgetter(*(each.name for each in fields(EngineChunk)))


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's load at present.

    Attributes:
        num_running: Requests in the batch.
        num_waiting: Requests that wait for a place in it.
        cache_use: Fraction of the KV cache in use, 0 to 1.
        num_tokens: Tokens generated since the engine started.
        num_tokens_in_flight: Prompt tokens plus tokens that may still be generated, of all these requests.
    """

    num_running: int
    num_waiting: int
    cache_use: float
    num_tokens: int
    num_tokens_in_flight: int


class Engine(Protocol):
    """Runs one model."""

    @property
    def keeps_prefixes(self) -> bool:
        """Whether a prompt is prefilled faster if an earlier one began with the same tokens."""
        ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        """Stream one answer. Closing the generator cancels the request and frees its part of the KV cache.

        Raises:
            InvalidCall: the request cannot be served as it is.
            EngineDead: the engine stopped and will not come back.
        """
        ...

    async def install(self, table_version: int, tokens: Sequence[ExpertToken]) -> None:
        """Replace all experts between two steps. Experts that a request allows and that are not installed
        are ignored. A table older than the present one is ignored too.

        Raises:
            TokenMismatch: a token was learned for another meta; nothing is replaced.
        """
        ...

    async def check(self) -> None:
        """Returns if the engine can answer: it generated a token recently, or it is alive and idle.

        Raises:
            EngineDead: it cannot; its replica must be replaced.
        """
        ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Stop. Running generations end with `FinishReason.CANCELLED`."""
        ...


@runtime_checkable
class AdapterEngine(Engine, Protocol):
    """An engine whose model takes LoRA adapters, which are loaded and unloaded while it serves requests."""

    async def load_adapter(self, name: str, folder: str) -> None:
        """Load the adapter in `folder` for requests that name it. Returns when they get it.

        It replaces an adapter of the same name; running requests keep the old one.

        Raises:
            ModelLoadError: it cannot be read, was made for another model, or there is no room for it; the
                loaded adapters stay.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Refuse new requests for the adapter. Running requests keep it, and its memory is freed when they
        have ended.

        Raises:
            UnknownAdapter: it is not loaded.
        """
        ...
