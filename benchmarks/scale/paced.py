"""Serve applications for the real run: a meta that hands over at once, and an expert, at a given pace."""

# No `from __future__ import annotations` here: Serve reads the annotations of the builder.

import asyncio
from collections.abc import AsyncGenerator

from pydantic import BaseModel
from ray.serve import Application

from benchmarks.relay.instant import InstantEngine
from deployments.model import ModelServer
from deployments.model_app import model_app
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest


class PacedArgs(BaseModel):
    """`step_s`: the time per token."""

    step_s: float


def build_paced(args: PacedArgs) -> Application:
    return model_app(PacedServer, args.step_s)


class PacedServer(ModelServer):
    def __init__(self, step_s: float) -> None:
        super().__init__(PacedEngine(step_s))


class PacedEngine(InstantEngine):
    """Hands over in the first step to the first expert that is allowed. Without any it writes tokens."""

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        if not request.allowed:
            async for chunk in super().generate(request):
                yield chunk
            return
        await asyncio.sleep(self._step_s)
        yield EngineChunk(
            num_prompt_tokens=1, finish=FinishReason.EXPERT, expert=min(request.allowed), probability=0.9
        )
