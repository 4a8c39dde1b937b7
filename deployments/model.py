"""ModelServer: an engine behind a handle. The meta and every expert are one of these."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from experts.engine.base import Call, Chunk, Engine, Stats
from experts.errors import EngineFailed, ExpertsError, TokenError

if TYPE_CHECKING:  # torch; Serve builds and routes without it
    from experts.token import ExpertToken


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
            TokenError: a token is broken, is another expert's or was learned for another meta; the old
                table stays.
        """
        table = TokenTable.model_validate(user_config)
        await self._engine.install(table.epoch, [_token(*item) for item in table.tokens.items()])

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Stream one call.

        Raises:
            ExpertsError: as the engine's contract says.
            EngineFailed: the engine raised anything else.
        """
        try:
            async with aclosing(self._engine.generate(call)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ExpertsError:
            raise
        except Exception as error:
            # Serve may hand an exception to the router as it is, where a TimeoutError would pass for the
            # router's own and an unknown class cannot be rebuilt. Serve also logs it here, cause and all.
            raise EngineFailed(_one_line(error, call)) from error

    async def stats(self) -> Stats:
        return self._engine.stats()

    async def check_health(self) -> None:
        await self._engine.check()

    async def close(self) -> None:
        if hasattr(self, "_engine"):  # Serve ends a replica also when loading its engine failed
            await self._engine.close()


def _token(name: str, inline: str) -> ExpertToken:
    from experts.token import ExpertToken

    token = ExpertToken.from_inline(inline)
    if token.name != name:
        raise TokenError(f"tokens.{name} holds the token of '{token.name}'; give each expert its own token")
    return token


def _one_line(error: Exception, call: Call) -> str:
    """The type and first line of the error; the type alone where the error quotes the prompt."""
    kind, message = type(error).__name__, str(error).strip()
    prompt = [call.text, call.written, *(entry["content"] for entry in call.messages or ())]
    if not message or any(part and part in message for part in prompt):
        return kind
    return f"{kind}: {message.splitlines()[0]}"
