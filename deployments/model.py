"""ModelServer: the Serve deployment of one model, the meta or an expert, with an engine behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from deployments.adapters import STARTUP_TIMEOUT_S, AdapterSource, ReplicaAdapters
from deployments.coalescing import Coalescer
from deployments.error_text import describe
from deployments.replicas.affinity import KEEPS_PREFIXES, VOCABULARY
from deployments.replicas.wire_format import Message, pack, unpack_request
from deployments.scaling import TOKEN_LOAD
from deployments.tracing.replica_span import traced_call
from deployments.tracing.tracer import OtlpTracer
from experts.engine.base import AdapterEngine, Engine
from experts.engine.chunk import EngineChunk
from experts.engine.request import EngineRequest
from experts.errors import EngineFailed, ExpertsError, TokenError
from router.frozen import read_settings
from router.load_report import ReplicaLoad
from router.table import Tracing

if TYPE_CHECKING:  # imports torch, which building and routing do without
    from experts.shadow import ShadowToken
    from experts.token import ExpertToken


class ShadowSettings(BaseModel):
    """A token, inlined, and the expert whose place it would take, if it would take one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    token: str
    replaces: str | None = None


class ModelSettings(BaseModel):
    """A model's `user_config`: what can change while it serves.

    For a meta: `tokens`, the token of every expert by name, inlined so that no replica needs a shared disk,
    and `table_version`, the version of the route table they belong to; `shadows` are experts on trial, which
    are scored and never win. For a pool, and for a meta with experts in place: `adapters`, the LoRA adapter
    of each of its experts by name. `target_tokens_in_flight` is per replica; None: scale by requests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    target_tokens_in_flight: int | None = None
    table_version: int = 0
    tokens: dict[str, str] | None = None
    shadows: dict[str, ShadowSettings] = Field(default_factory=dict)
    adapters: dict[str, AdapterSource] | None = None
    tracing: Tracing | None = None


class ModelServer:
    """Serves an `Engine`; Serve calls the methods. The contract of a call is the engine's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._adapters = ReplicaAdapters(engine) if isinstance(engine, AdapterEngine) else None
        self._settings: ModelSettings | None = None
        self._tracer = OtlpTracer()
        self._num_tables = 0

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve delivers a changed `user_config` here, without a restart.

        An adapter that cannot be loaded raises nothing: the pool's other experts are served.

        Raises:
            TokenError: a token is broken, belongs to another expert or was learned for another meta. The old
                tokens stay.
        """
        settings = read_settings(ModelSettings, user_config)
        if settings.tokens is not None:
            tokens = [_token(*item) for item in settings.tokens.items()]
            # Numbered by arrival, not by `table_version`: the last config that Serve delivers counts, and a
            # freshly rendered RayService starts again at version 1.
            self._num_tables += 1
            shadows = [_shadow(*item) for item in settings.shadows.items()]
            await self._engine.install(self._num_tables, tokens, shadows)
        is_first, self._settings = self._settings is None, settings
        await self._tracer.configure(settings.tracing)
        if self._adapters is not None:
            self._adapters.set_wanted(settings.adapters or {})
            # Serve sends the first requests when this returns. A later change is not waited for, because
            # Serve may regard the replica as not running until this returns.
            if is_first:
                await self._adapters.wait_until_settled(STARTUP_TIMEOUT_S)

    async def generate(self, message: Message) -> AsyncGenerator[Message, None]:
        """Stream one call, in messages as `Coalescer` joins them.

        Raises:
            ExpertsError: as the engine's contract says.
            OtherRelease: a router of another release asks what this one does not know.
            EngineFailed: the engine raised anything else.
        """
        request = unpack_request(message)
        messages = Coalescer(request.message_gap_s)
        try:
            async with aclosing(traced_call(self._tracer, request, self._generate)) as chunks:
                async for chunk in chunks:
                    if (joined := messages.add(chunk)) is not None:
                        yield pack(joined)
        except Exception as error:
            if (joined := messages.rest()) is not None:
                yield pack(joined)
            if isinstance(error, ExpertsError):
                raise
            # Serve may hand an exception to the router as it is: a TimeoutError would pass for the router's
            # own, and an unknown class cannot be rebuilt there. The message may quote the prompt, so it stays
            # here. Serve logs the frames of the cause.
            raise EngineFailed(describe(error)) from error
        if (joined := messages.rest()) is not None:
            yield pack(joined)

    async def load(self) -> ReplicaLoad:
        stats = self._engine.stats()
        return ReplicaLoad(
            replica=serve.get_replica_context().replica_tag,
            time_s=time.monotonic(),
            num_running=stats.num_running,
            num_waiting=stats.num_waiting,
            num_tokens=stats.num_tokens,
            cache_use=stats.cache_use,
            adapters=self._adapters.loads() if self._adapters else {},
            cache_kept=stats.cache_kept,
            num_cached_tokens=stats.num_cached_tokens,
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve calls this every few seconds and passes the result to the scaling policy."""
        target = self._settings.target_tokens_in_flight if self._settings else None
        # Without a target the load is 0 and not left out, because Serve would keep the last reported value.
        return {TOKEN_LOAD: self._engine.stats().num_tokens_in_flight / target if target else 0.0}

    async def record_replica_metadata(self) -> dict[str, bool | str | None]:
        """Serve calls this once, when the replica is ready, and passes the result to every request router."""
        # In a thread: it is a digest of the whole vocabulary.
        vocabulary = await asyncio.to_thread(getattr, self._engine, "vocabulary")
        return {KEEPS_PREFIXES: self._engine.keeps_prefixes, VOCABULARY: vocabulary}

    async def check_health(self) -> None:
        await self._engine.check()

    async def close(self) -> None:
        if not hasattr(self, "_engine"):  # Serve also stops a replica whose engine could not be loaded
            return
        if self._adapters is not None:
            await self._adapters.close()
        await self._engine.close()
        await self._tracer.close()

    def _generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        if self._adapters is None or (request.adapter is None and not request.in_place):
            return self._engine.generate(request)
        if request.adapter is None:
            return self._adapters.generate_in_place(request)
        return self._adapters.generate(request.adapter, request)


def _shadow(name: str, settings: ShadowSettings) -> ShadowToken:
    from experts.shadow import ShadowToken

    return ShadowToken(_token(name, settings.token), settings.replaces)


def _token(name: str, inline: str) -> ExpertToken:
    from experts.token import ExpertToken

    token = ExpertToken.from_inline(inline)
    if token.name != name:
        raise TokenError(f"tokens.{name} holds the token of '{token.name}'; give each expert its own token")
    return token
