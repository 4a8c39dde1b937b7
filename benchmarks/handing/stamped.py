"""The product's own applications, which also write down when a hand-over passes them."""

# No `from __future__ import annotations` here: Serve reads the builders' annotations as they stand.

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.serve import Application

from benchmarks.handing.stamps import Stamps
from deployments.apps import (
    ROUTER_DEPLOYMENT,
    LoadedModelServer,
    ModelArgs,
    RouterArgs,
    ServedRouter,
)
from deployments.model_app import model_app
from deployments.remote import RemoteModel
from deployments.replicas import ReplicaSet
from deployments.router import connect
from experts.engine.base import Call, Chunk, FinishReason
from router.model import Ask, Finish, Piece
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

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        is_first = True
        if self._is_expert:
            self._stamps.put(call.request_id, "called")
        async with aclosing(super().generate(call)) as chunks:
            async for chunk in chunks:
                if chunk.finish is FinishReason.EXPERT:
                    self._stamps.put(call.request_id, "decided")
                if self._is_expert and is_first:
                    self._stamps.put(call.request_id, "made")
                    self._stamps.put(call.request_id, "prefill", chunk.prefill_s)
                is_first = False
                yield chunk


class StampedRouter(ServedRouter):
    def __init__(self, max_body_bytes: int, stamps: str) -> None:
        self._stamps = Stamps(stamps)
        super().__init__(max_body_bytes, self._open_way)

    async def _open_way(self, app: str) -> "StampedWay":
        return StampedWay(app, await connect(app), self._stamps)


class StampedWay:
    """Keeps the contract of `Deployed`."""

    def __init__(self, app: str, model: RemoteModel, stamps: Stamps) -> None:
        self._is_expert = app != META
        self._model = model
        self._stamps = stamps

    @property
    def replicas(self) -> ReplicaSet:
        return self._model.replicas

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        is_first = True
        if self._is_expert:
            self._stamps.put(ask.request_id, "sent")
        async with aclosing(self._model.stream(ask)) as pieces:
            async for piece in pieces:
                if piece.finish is Finish.EXPERT:
                    self._stamps.put(ask.request_id, "told")
                if self._is_expert and is_first:
                    self._stamps.put(ask.request_id, "heard")
                is_first = False
                yield piece
