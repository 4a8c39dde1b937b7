"""ModelServer: an engine behind a handle. The meta and every expert are one of these."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from ray import serve

from deployments.adapters import START_S, Adapters, AdapterSource
from deployments.affinity import KEEPS_PREFIXES
from deployments.logs import brief
from deployments.pacing import paced
from deployments.scaling import TOKEN_LOAD
from experts.engine.base import AdapterEngine, Call, Chunk, Engine
from experts.errors import EngineFailed, ExpertsError, TokenError
from router.load import ReplicaLoad

if TYPE_CHECKING:  # torch; Serve builds and routes without it
    from experts.token import ExpertToken


class ModelSettings(BaseModel):
    """A model's `user_config`: what changes while it serves.

    A meta has every expert's `tokens`, inlined, so that no replica needs a shared disk; `epoch` numbers them.
    A pool has the `adapters` of its experts, by their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    target_tokens_in_flight: int | None = None
    epoch: int = 0
    tokens: dict[str, str] | None = None
    adapters: dict[str, AdapterSource] | None = None


class ModelServer:
    """A thin shell: what it promises is the engine's contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._adapters = Adapters(engine) if isinstance(engine, AdapterEngine) else None
        self._settings: ModelSettings | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve delivers a changed `user_config` here, without a restart.

        An adapter that cannot be loaded is no error: the pool's others are served.

        Raises:
            TokenError: a token is broken, is another expert's or was learned for another meta; the old
                table stays.
        """
        settings = ModelSettings.model_validate(user_config)
        if settings.tokens is not None:
            tokens = [_token(*item) for item in settings.tokens.items()]
            await self._engine.install(settings.epoch, tokens)
        is_first, self._settings = self._settings is None, settings
        if self._adapters is not None:
            self._adapters.want(settings.adapters or {})
            # Serve sends requests once this returns. Later it is not waited for: until it returns, Serve
            # may take the replica for one that does not run.
            if is_first:
                await self._adapters.settled(START_S)

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Stream one call.

        Raises:
            ExpertsError: as the engine's contract says.
            EngineFailed: the engine raised anything else.
        """
        try:
            async with aclosing(paced(self._generate(call), call.message_gap_s)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ExpertsError:
            raise
        except Exception as error:
            # Serve may hand an exception to the router as it is, where a TimeoutError would pass for the
            # router's own and an unknown class cannot be rebuilt. Its message may quote the prompt and stays
            # here; Serve logs the frames of the cause.
            raise EngineFailed(brief(error)) from error

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
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks for this every few seconds, and hands it to the scaling policy."""
        target = self._settings.target_tokens_in_flight if self._settings else None
        # Without a target a load of 0, not none: Serve would go by the last one it was told.
        return {TOKEN_LOAD: self._engine.stats().num_tokens_in_flight / target if target else 0.0}

    async def record_replica_metadata(self) -> dict[str, bool]:
        """Serve asks for this once, when the replica is ready, and tells whoever calls it."""
        return {KEEPS_PREFIXES: self._engine.keeps_prefixes}

    async def check_health(self) -> None:
        await self._engine.check()

    async def close(self) -> None:
        if not hasattr(self, "_engine"):  # Serve ends a replica also when loading its engine failed
            return
        if self._adapters is not None:
            await self._adapters.close()
        await self._engine.close()

    def _generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        if self._adapters is None or call.adapter is None:
            return self._engine.generate(call)
        return self._adapters.generate(call.adapter, call)


def _token(name: str, inline: str) -> ExpertToken:
    from experts.token import ExpertToken

    token = ExpertToken.from_inline(inline)
    if token.name != name:
        raise TokenError(f"tokens.{name} holds the token of '{token.name}'; give each expert its own token")
    return token
