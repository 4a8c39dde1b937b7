"""The contract every engine keeps; the rest of the system is written against it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # the router speaks this contract too, and does without torch
    from experts.token import ExpertToken


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its turn
    LENGTH = "length"  # `max_tokens` are written, or the context window is full
    EXPERT = "expert"  # an expert's token won; `Chunk.expert` names it
    CANCELLED = "cancelled"  # the engine shut down meanwhile


@dataclass(frozen=True, slots=True)
class Resumed:
    """What this model wrote of the answer before its replica was lost, as text and as the ids it chose.

    The ids count where `tokenizer` is the engine's own (`Chunk.tokenizer`): read anew, text may differ.
    """

    text: str
    ids: tuple[int, ...]
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Call:
    """One generation. Exactly one of `messages`, `text` and `ids` is given.

    `written` is text that already stands in the open assistant turn (or after the raw text), and `resumed`
    follows it; `position` counts the tokens of both for seeded sampling: the draw of token number p depends
    on (seed, p) alone, so a resumed generation goes on where it broke off. `allowed` and `bias` concern the
    experts of a meta; `only_at_start` lets them win at the first token alone. A `probe` writes nothing and
    returns the distribution over the allowed experts at the first position. `adapter` names a LoRA adapter
    that the engine has loaded; None: the model as it is. `message_gap_s` concerns whoever passes chunks on:
    they may be bunched to messages so far apart.
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
class Chunk:
    """What was generated since the last chunk; whole characters only. The last one has a finish reason.

    The first has a `tokenizer`: a fingerprint by which `token_ids` can be told from another tokenizer's.
    It also has the time that the call waited (`queue_s`), and from there to its first token (`prefill_s`).
    `num_unnamed_tokens` are those of an engine that learns how many there were, and not which.
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

    def __reduce__(self) -> tuple[type[Chunk], tuple[object, ...]]:
        # Or each is taken apart and put together again field by field, in Python, at both ends of a message.
        return Chunk, _fields_of(self)

    def followed_by(self, later: Chunk) -> Chunk:
        """Both of them as one."""
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

    def timed(self, since_call_s: float, since_scheduled_s: float) -> Chunk:
        """The same as a first chunk that was made so long after the engine was called, and after it had
        begun with the prompt."""
        return replace(self, queue_s=max(0.0, since_call_s - since_scheduled_s), prefill_s=since_scheduled_s)


_fields_of = attrgetter(*(one.name for one in fields(Chunk)))


@dataclass(frozen=True, slots=True)
class Stats:
    """`cache_use` is a fraction of the KV cache; `num_tokens` counts since the engine started.

    `num_tokens_in_flight`: prompts and what may still be written, of all calls that run or wait.
    """

    num_running: int
    num_waiting: int
    cache_use: float
    num_tokens: int
    num_tokens_in_flight: int


class Engine(Protocol):
    @property
    def keeps_prefixes(self) -> bool:
        """Whether a prompt is read sooner that begins like one before it."""
        ...

    def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Generate; closing the generator cancels and frees the cache.

        Raises:
            InvalidCall: the call cannot be served as asked.
            EngineDead: the engine stopped and will not come back.
        """
        ...

    async def install(self, epoch: int, tokens: Sequence[ExpertToken]) -> None:
        """Swap the whole expert table between two steps. A name that a later call allows and the table
        lacks is ignored.

        Raises:
            TokenMismatch: a token was learned for another meta; nothing is swapped.
        """
        ...

    async def check(self) -> None:
        """Returns if the engine can answer: it produced a token lately, or is idle and alive.

        Raises:
            EngineDead: it cannot.
        """
        ...

    def stats(self) -> Stats: ...

    async def close(self) -> None:
        """Stop; generations under way end with `FinishReason.CANCELLED`."""
        ...


@runtime_checkable
class AdapterEngine(Engine, Protocol):
    """An engine whose one model takes LoRA adapters, loaded and unloaded while it answers."""

    async def load_adapter(self, name: str, folder: str) -> None:
        """Serve the adapter in `folder` to calls that name it; in place of one of the same name, which calls
        under way go on with. Returns when calls get it.

        Raises:
            ModelLoadError: it cannot be read, fits another model, or there is no room; what was there stays.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """No call gets it from now on; calls under way keep it, and its memory is free when they are over.

        Raises:
            UnknownAdapter: it is not loaded.
        """
        ...
