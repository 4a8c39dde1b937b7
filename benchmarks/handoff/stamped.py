"""The usual Serve applications, which also write timestamps of every hand-over."""

# No `from __future__ import annotations` here: Serve reads the annotations of the builders.

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from benchmarks.handoff.stamps import Event, Stamps
from deployments.apps import (
    ROUTER_DEPLOYMENT,
    LoadedModelServer,
    ModelArgs,
    RouterArgs,
    ServedRouter,
)
from deployments.model_app import model_app, model_handle
from deployments.remote import RemoteModel
from deployments.replicas.wire_format import Message, unpack_chunk, unpack_request
from experts.engine.chunk import FinishReason
from router.model_port import Finish, ModelChunk, ModelRequest
from router.table import META


class StampedModelArgs(ModelArgs):
    stamps: str


class StampedRouterArgs(RouterArgs):
    stamps: str


def build_model(args: StampedModelArgs) -> Application:
    raw = args.model_dump(mode="json", exclude={"stamps"})
    return model_app(StampedServer, raw, args.stamps)


def build_router(args: StampedRouterArgs) -> Application:
    ingress: type[StampedRouter] = serve.ingress()(StampedRouter)
    return serve.deployment(name=ROUTER_DEPLOYMENT)(ingress).bind(args.max_body_bytes, args.stamps)


class StampedServer(LoadedModelServer):
    def __init__(self, raw: dict[str, Any], stamps: str) -> None:
        super().__init__(raw)
        self._is_expert = raw["name"] != META
        self._stamps = Stamps(stamps)

    async def generate(self, message: Message) -> AsyncGenerator[Message, None]:
        is_first, request = True, unpack_request(message)
        if self._is_expert:
            self._stamps.put(request.request_id, Event.CALL_RECEIVED)
        async with aclosing(super().generate(message)) as messages:
            async for sent in messages:
                chunk = unpack_chunk(sent)
                if chunk.finish is FinishReason.EXPERT:
                    self._stamps.put(request.request_id, Event.DECIDED)
                if self._is_expert and is_first:
                    self._stamps.put(request.request_id, Event.FIRST_TOKEN)
                    self._stamps.put(request.request_id, Event.PREFILL, chunk.prefill_s)
                is_first = False
                yield sent


class StampedRouter(ServedRouter):
    def __init__(self, max_body_bytes: int, stamps: str) -> None:
        self._stamps = Stamps(stamps)
        super().__init__(max_body_bytes, self._connect_stamped)

    async def _connect_stamped(self, app: str) -> "StampedModel":
        return StampedModel(app, await model_handle(app), self._stamps)


class StampedModel(RemoteModel):
    def __init__(self, app: str, handle: DeploymentHandle[Any], stamps: Stamps) -> None:
        super().__init__(app, handle)
        self._is_expert = app != META
        self._stamps = stamps

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        is_first = True
        if self._is_expert:
            self._stamps.put(request.request_id, Event.CALL_SENT)
        async with aclosing(super().stream(request)) as chunks:
            async for chunk in chunks:
                if chunk.finish is Finish.EXPERT:
                    self._stamps.put(request.request_id, Event.DECISION_RECEIVED)
                if self._is_expert and is_first:
                    self._stamps.put(request.request_id, Event.FIRST_TOKEN_RECEIVED)
                is_first = False
                yield chunk
