"""ModelServer: an engine behind a handle. The meta and every expert are one of these."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel, ConfigDict

from experts.engine.base import Call, Chunk, Engine, Stats


class TokenTable(BaseModel):
    """The meta's `user_config`: every expert token, inlined, so that no replica needs a shared disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    epoch: int
    tokens: dict[str, str]


class ModelServer:
    """A thin shell: what it promises is the engine's contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve delivers a changed `user_config` here, without a restart.

        Raises:
            TokenError: a token is broken or was learned for another meta; the old table stays.
        """
        from experts.token import ExpertToken  # torch; Serve builds and routes without it

        table = TokenTable.model_validate(user_config)
        await self._engine.install(
            table.epoch, [ExpertToken.from_inline(text) for text in table.tokens.values()]
        )

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self._engine.generate(call)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def stats(self) -> Stats:
        return self._engine.stats()

    async def check_health(self) -> None:
        await self._engine.check()

    async def __del__(self) -> None:
        await self._engine.close()
