"""The router's port: what it asks of a model, wherever that model runs, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Finish(StrEnum):
    """Why a model put down the pen."""

    STOP = "stop"  # it ended its turn
    LENGTH = "length"  # the token budget or its context window is used up
    EXPERT = "expert"  # meta only: an expert's token won; `Piece.expert` names it
    CANCELLED = "cancelled"  # the replica gave the request up, for example while shutting down


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Exactly one of the three: a conversation, a raw text or token ids of the addressed model."""

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps every token
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Resumed:
    """What the model itself wrote last, in the tokens it chose: to read the text anew may cut it otherwise.

    Where `tokenizer` is not its own (a rollout came in between), a model reads `text` instead.
    """

    text: str
    ids: tuple[int, ...]
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One call to one model.

    `written` is the text already in the open assistant turn, whoever wrote it, and `resumed` what follows it
    where the same model is asked to go on; `position` is the length of both in tokens, so that a seeded draw
    goes on instead of starting over. `allowed` are the experts the meta may hand over to; `bias` is added to
    their logits. With `probe` nothing is written: the only piece carries the distribution over the allowed
    experts, and the expert that would take over, if one would. `adapter` is the model's place in an
    application that serves several (`ModelEntry.adapter`). Pieces may be as far apart as `message_gap_s`,
    though the model writes faster; the first text and the end wait for nothing.
    """

    request_id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    written: str = ""
    resumed: Resumed | None = None
    position: int = 0
    allowed: tuple[str, ...] = ()
    bias: Mapping[str, float] = field(default_factory=dict)
    only_at_start: bool = False
    probe: bool = False
    adapter: str | None = None
    message_gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """What a model produced since its last piece; `finish` is set on the last one.

    `text` is whole characters, and `num_tokens` counts the tokens that made them: a token whose character is
    not complete belongs to a later piece, or a resumed answer would count it twice. `ids` are those tokens,
    for models that know them, and `tokenizer` tells whose (on the first piece; None: nobody can use them).
    On the first piece, `queue_s` is how long the call waited in the engine, and `prefill_s` how long it took
    from there to the first token.
    """

    text: str = ""
    num_tokens: int = 0
    ids: tuple[int, ...] = ()
    tokenizer: str | None = None
    num_prompt_tokens: int | None = None
    finish: Finish | None = None
    expert: str | None = None
    probability: float | None = None
    distribution: Mapping[str, float] | None = None
    queue_s: float = 0.0
    prefill_s: float = 0.0


class Model(Protocol):
    def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """Stream one call. Closing the generator cancels the call and frees the replica's slot.

        Raises:
            RequestError: this model cannot serve the call as asked (too long, a parameter it cannot honour).
            ModelUnavailable: the replica is gone or busy; another may answer.
            ModelDied: it is gone, and the call was in its hands.
            ModelFailed: the engine raised an exception of its own.
        """
        ...


class Models(Protocol):
    """Looks a model up by the name of its application."""

    def __getitem__(self, app: str) -> Model: ...
