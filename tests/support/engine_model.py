"""An engine of this process as the router's decode loop calls it, without Ray between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from deployments.replicas.wire import to_engine_request, to_model_chunk
from experts.engine.base import Engine
from router.model_port import ModelChunk, ModelRequest
from router.table import Deadlines

# A real model beside other tests may be silent for minutes, and a call that is tried anew is one call more.
PATIENT = Deadlines(queue_s=900, first_token_s=900, gap_s=900, total_s=900)


@dataclass
class Call:
    """One call of the model named `writer`, and what came back."""

    writer: str
    request: ModelRequest
    chunks: list[ModelChunk] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [token_id for chunk in self.chunks for token_id in chunk.ids]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)


class EngineModel:
    """Keeps the contract of `Model`, and records every call by its request id."""

    def __init__(self, name: str, engine: Engine, calls: defaultdict[str, list[Call]]) -> None:
        self._name = name
        self._engine = engine
        self._calls = calls

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        call = Call(self._name, request)
        self._calls[request.request_id].append(call)
        async with aclosing(self._engine.generate(to_engine_request(request))) as chunks:
            async for chunk in chunks:
                call.chunks.append(to_model_chunk(chunk))
                yield call.chunks[-1]
