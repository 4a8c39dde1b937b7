"""The interface that every engine implements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from experts.engine.chunk import EngineChunk
from experts.engine.request import EngineRequest

if TYPE_CHECKING:  # the router uses this module too, and must not import torch
    from experts.adapter import Invocation
    from experts.shadow import ShadowToken
    from experts.token import ExpertToken


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's load at present.

    Attributes:
        num_running: Requests in the batch.
        num_waiting: Requests that wait for a place in it.
        cache_use: Fraction of the KV cache that running requests use, 0 to 1.
        num_tokens: Tokens generated since the engine started.
        num_tokens_in_flight: Prompt tokens plus tokens that may still be generated, of all these requests.
        cache_kept: Fraction of the KV cache that no running request uses and a later one may, 0 to 1.
        num_cached_tokens: Prompt tokens that were not read because they were in the cache, since the engine
            started.
    """

    num_running: int
    num_waiting: int
    cache_use: float
    num_tokens: int
    num_tokens_in_flight: int
    cache_kept: float = 0.0
    num_cached_tokens: int = 0


class Engine(Protocol):
    """Runs one model."""

    @property
    def keeps_prefixes(self) -> bool:
        """Whether a prompt is prefilled faster if an earlier one began with the same tokens."""
        ...

    @property
    def vocabulary(self) -> str | None:
        """Equal for two models if their token ids mean the same; None if the ids are not known."""
        ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        """Stream one answer. Closing the generator cancels the request and frees its part of the KV cache.

        Raises:
            InvalidCall: the request cannot be served as it is.
            EngineDead: the engine stopped and will not come back.
        """
        ...

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        """Replace all experts and shadows between two steps. Those that a request names and that are not
        installed are ignored. A table older than the present one is ignored too.

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

    async def load_adapter(self, name: str, folder: str, invocation: Invocation | None = None) -> None:
        """Load the adapter in `folder` for requests that name it. Returns when they get it.

        It replaces an adapter of the same name; running requests keep the old one. `invocation`: how it takes
        over in place (`EngineRequest.in_place`); None: it never does.

        Raises:
            ModelLoadError: it cannot be read, was made for another model, cannot take over in this way, or
                there is no room for it; the loaded adapters stay.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Refuse new requests for the adapter. Running requests keep it, and its memory is freed when they
        have ended.

        Raises:
            UnknownAdapter: it is not loaded.
        """
        ...
