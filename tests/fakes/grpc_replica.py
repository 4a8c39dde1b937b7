"""Serve's own gRPC transport between a `ModelServer` and a `RemoteModel`, without Ray around it."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio  # type: ignore[import-untyped]
from ray import ActorID
from ray.serve._private.common import RequestMetadata
from ray.serve._private.replica import _wrap_grpc_call
from ray.serve._private.replica_result import ReplicaResult, gRPCReplicaResult
from ray.serve.generated.serve_pb2 import ASGIRequest  # type: ignore[attr-defined]
from ray.serve.generated.serve_pb2_grpc import (
    ASGIServiceServicer,
    ASGIServiceStub,
    add_ASGIServiceServicer_to_server,
)
from ray.serve.handle import DeploymentResponseGenerator

from deployments.model import ModelServer
from deployments.remote import RemoteModel
from deployments.replicas.replica_set import replicas_of
from deployments.replicas.wire_format import Message, Sent
from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk
from experts.engine.request import EngineRequest
from experts.errors import EngineDead
from experts.shadow import ShadowToken
from experts.token import ExpertToken

METADATA = RequestMetadata(
    "r",
    "internal",
    call_method="generate",
    is_streaming=True,
    request_serialization="pickle",
    response_serialization="pickle",
    _by_reference=False,
    _on_separate_loop=False,
)


@dataclass
class ScriptedEngine:
    """Plays chunks and raises exceptions in the order of the script; waits forever when it runs out."""

    script: Sequence[EngineChunk | BaseException]
    tokens: dict[int, list[str]] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False
    keeps_prefixes: bool = False
    vocabulary: str | None = None

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        try:
            for item in self.script:
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finish:
                    return
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        self.tokens[table_version] = [token.name for token in tokens]

    async def check(self) -> None:
        if self.closed:
            raise EngineDead("closed")

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, 0.0, 0, 0)

    async def close(self) -> None:
        self.closed = True


class Replica(ASGIServiceServicer):
    """The gRPC service of a Serve replica, including its errors, with a `ModelServer` behind it."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    @_wrap_grpc_call
    async def HandleRequestStreaming(  # noqa: N802 - the service's name
        self, context: Any, metadata: RequestMetadata, request: Message
    ) -> AsyncIterator[Message]:
        await context.send_initial_metadata((("accepted", "1"), ("num_ongoing_requests", "1")))
        async with aclosing(self._server.generate(request)) as chunks:
            async for message in chunks:
                yield message


class Handle:
    """A `DeploymentHandle` of `chem`, on the caller's loop, that chooses its replica `r1`.

    `failure` is raised when a replica is chosen. `on_accepted` is called when the replica accepts a call,
    before the caller learns of it.
    """

    def __init__(self, stub: Any = None, failure: Exception | None = None) -> None:
        self.on_accepted: Callable[[], object] = lambda: None
        self._stub = stub
        self._failure = failure
        self._replicas = replicas_of("chem")
        self._replicas.set_running(())  # forget what an earlier handle left
        self._replicas.set_running(("r1",))

    def options(
        self, *, method_name: str, stream: bool, request_serialization: str, response_serialization: str
    ) -> Handle:
        assert (method_name, stream) == (METADATA.call_method, METADATA.is_streaming)
        serialization = (METADATA.request_serialization, METADATA.response_serialization)
        assert (request_serialization, response_serialization) == serialization
        return self

    def remote(self, sent: Sent) -> DeploymentResponseGenerator[Message]:
        accepting = asyncio.get_running_loop().create_task(self._assign(sent))
        accepting.add_done_callback(lambda _: self.on_accepted())
        return DeploymentResponseGenerator(accepting, METADATA, False)

    async def _assign(self, sent: Sent) -> ReplicaResult:
        self._replicas.calls.placed(sent.request.request_id, "r1")
        if self._failure:
            raise self._failure
        result = gRPCReplicaResult(
            self._stub.HandleRequestStreaming(_grpc_request(sent)),
            METADATA,
            ActorID.nil(),
            with_rejection=True,
        )
        await result.get_rejection_response()
        self._replicas.calls.accepted(sent.request.request_id)
        return result


def _grpc_request(sent: Sent) -> ASGIRequest:
    return ASGIRequest(
        pickled_request_metadata=pickle.dumps(METADATA),
        request_args=pickle.dumps((sent,)),
        request_kwargs=pickle.dumps({}),
    )


@dataclass
class Connection:
    """A model over a real gRPC connection, and the server, to break the connection."""

    model: RemoteModel
    server: grpc.aio.Server
    handle: Handle


@asynccontextmanager
async def connected(engine: ScriptedEngine) -> AsyncIterator[Connection]:
    server = grpc.aio.server()
    add_ASGIServiceServicer_to_server(Replica(ModelServer(engine)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            handle = Handle(ASGIServiceStub(channel))
            yield Connection(RemoteModel("chem", handle), server, handle)  # type: ignore[arg-type]
    finally:
        await server.stop(None)
