"""Serve applications: a model that answers in no time, and the smallest app that relays it over HTTP."""

# No `from __future__ import annotations` here: Serve reads the annotations of the builders.

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, cast

from pydantic import BaseModel
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentResponseGenerator
from starlette.requests import Request
from starlette.responses import StreamingResponse

from deployments.model import ModelServer
from deployments.model_app import MODEL_DEPLOYMENT, model_app
from deployments.replicas.wire import to_engine_request
from deployments.replicas.wire_format import Message, Sent, unpack_chunk
from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest
from experts.shadow import ShadowToken
from experts.token import ExpertToken
from router.model_port import ModelRequest
from router.prompt import Prompt


class InstantArgs(BaseModel):
    """`step_s`: the time per token. 0: no pauses, and every token is a message of its own."""

    step_s: float = 0.0


def build_instant(args: InstantArgs) -> Application:
    return model_app(InstantServer, args.step_s)


def build_bare(args: InstantArgs) -> Application:
    return serve.deployment(max_ongoing_requests=1000)(BareApp).bind()


class InstantEngine:
    """An `Engine`. The text of a token is the time at which it was made, in ns of time.monotonic_ns()."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._num_running = self._num_tokens = 0

    @property
    def keeps_prefixes(self) -> bool:
        return False

    @property
    def vocabulary(self) -> None:
        return None

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        num_left = request.max_tokens or 1
        self._num_running += 1
        try:
            made_until_s = time.monotonic()
            while num_left:
                num = min(num_left, await self._num_made(made_until_s))
                made_until_s += num * self._step_s
                num_left -= num
                self._num_tokens += num
                text = f" {time.monotonic_ns()}" + " word" * (num - 1)
                yield EngineChunk(text=text, token_ids=(7,) * num, tokenizer="instant", num_prompt_tokens=1)
            yield EngineChunk(finish=FinishReason.LENGTH)
        finally:
            self._num_running -= 1

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        """It never hands over."""

    async def check(self) -> None:
        """It always works."""

    def stats(self) -> EngineStats:
        return EngineStats(self._num_running, 0, 0.0, self._num_tokens, 0)

    async def close(self) -> None:
        """It has no resources."""

    async def _num_made(self, since_s: float) -> int:
        """The number of tokens made since `since_s`. Waits until there is at least one."""
        if not self._step_s:
            return 1
        if (left_s := since_s + self._step_s - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        return max(1, int((time.monotonic() - since_s) / self._step_s))


class InstantServer(ModelServer):
    def __init__(self, step_s: float) -> None:
        super().__init__(InstantEngine(step_s))


class BareApp:
    """The least that a stream through Serve costs: no checks, no routing, no deadlines."""

    def __init__(self) -> None:
        handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, "meta")
        self._model = handle.options(method_name="generate", stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        request = ModelRequest("bare", Prompt(text=body["prompt"]), max_tokens=body["max_tokens"])
        response = cast(
            "DeploymentResponseGenerator[Message]", self._model.remote(Sent(to_engine_request(request)))
        )
        async for message in response:
            yield b"data: %b\n\n" % unpack_chunk(message).text.encode()
        yield b"data: [DONE]\n\n"
