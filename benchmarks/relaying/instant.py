"""Serve applications to measure: a model that thinks no time, and the least that can relay it over HTTP."""

# No `from __future__ import annotations` here: Serve reads the builders' annotations as they stand.

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
from deployments.remote import to_call
from experts.engine.base import Call, Chunk, FinishReason, Stats
from experts.token import ExpertToken
from router.model import Ask, Prompt


class InstantArgs(BaseModel):
    """`step_s`: how long a token takes; 0 gives every token a message of its own, without a pause."""

    step_s: float = 0.0


def build_instant(args: InstantArgs) -> Application:
    return model_app(InstantServer, args.step_s)


def build_bare(args: InstantArgs) -> Application:
    return serve.deployment(max_ongoing_requests=1000)(Bare).bind()


class InstantEngine:
    """Keeps the contract of `Engine`. Each token is the time at which it was made, in ns of this machine."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._num_running = self._num_tokens = 0

    @property
    def keeps_prefixes(self) -> bool:
        return False

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        num_left = call.max_tokens or 1
        self._num_running += 1
        try:
            due_s = time.monotonic()
            while num_left:
                num = min(num_left, await self._num_made(due_s))
                due_s += num * self._step_s
                num_left -= num
                self._num_tokens += num
                text = f" {time.monotonic_ns()}" + " word" * (num - 1)
                yield Chunk(text=text, token_ids=(7,) * num, tokenizer="instant", num_prompt_tokens=1)
            yield Chunk(finish=FinishReason.LENGTH)
        finally:
            self._num_running -= 1

    async def install(self, epoch: int, tokens: Sequence[ExpertToken]) -> None:
        """It hands over to nobody."""

    async def check(self) -> None:
        """It always can."""

    def stats(self) -> Stats:
        return Stats(self._num_running, 0, 0.0, self._num_tokens, 0)

    async def close(self) -> None:
        """It holds nothing."""

    async def _num_made(self, since_s: float) -> int:
        """How many tokens there are since then; at least one, after a wait if need be."""
        if not self._step_s:
            return 1
        if (left_s := since_s + self._step_s - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        return max(1, int((time.monotonic() - since_s) / self._step_s))


class InstantServer(ModelServer):
    def __init__(self, step_s: float) -> None:
        super().__init__(InstantEngine(step_s))


class Bare:
    """What everybody pays who streams a model's text through Serve: no checks, no routing, no deadlines."""

    def __init__(self) -> None:
        handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, "meta")
        self._model = handle.options(method_name="generate", stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        ask = Ask("bare", Prompt(text=body["prompt"]), max_tokens=body["max_tokens"])
        response = cast("DeploymentResponseGenerator[Chunk]", self._model.remote(to_call(ask)))
        async for chunk in response:
            yield b"data: %b\n\n" % chunk.text.encode()
        yield b"data: [DONE]\n\n"
