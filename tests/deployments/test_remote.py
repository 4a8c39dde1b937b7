"""Both ends of a handle over Serve's own gRPC transport: what an engine produces and what arrives."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing

import grpc.aio  # type: ignore[import-untyped]
import pytest
import torch
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError

from deployments.model import ModelServer
from deployments.remote import RemoteModel, translate
from deployments.replicas.call_placements import CallPlacement
from deployments.replicas.wire_format import pack
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest
from experts.errors import (
    AdapterFailed,
    ContextLengthExceeded,
    DataError,
    EngineDead,
    EngineFailed,
    ExpertsError,
    ExpertsFault,
    InvalidCall,
    InvalidPrompt,
    ModelLoadError,
    OtherRelease,
    RemoteBusy,
    RemoteFault,
    RemoteMisconfigured,
    RemoteUnavailable,
    TemplateError,
    TokenError,
    TokenMismatch,
    TurnNotContinued,
    UnknownAdapter,
)
from experts.token import ExpertToken
from router import errors
from router.model_port import ModelChunk, ModelRequest
from router.prompt import Message, Prompt
from tests.fakes.grpc_replica import Handle, ScriptedEngine, connected

REQUEST = ModelRequest("r", Prompt(messages=(Message("user", "my secret"),)))
ENGINE_REQUEST = EngineRequest("r", messages=({"role": "user", "content": "my secret"},))
HELLO = EngineChunk("hello", (1,), num_prompt_tokens=2)
END = EngineChunk(finish=FinishReason.STOP)


async def chunks_of(model: RemoteModel) -> list[ModelChunk]:
    async with aclosing(model.stream(REQUEST)) as chunks:
        return [chunk async for chunk in chunks]


async def test_a_stream_arrives_complete():
    async with connected(ScriptedEngine([HELLO, END])) as connection:
        chunks = await chunks_of(connection.model)
    assert [(chunk.text, chunk.num_tokens, chunk.num_prompt_tokens, chunk.finish) for chunk in chunks] == [
        ("hello", 1, 2, None),
        ("", 0, None, "stop"),
    ]


async def test_tokens_without_ids_are_counted_too():
    async with connected(ScriptedEngine([EngineChunk("hello you", num_unnamed_tokens=2), END])) as connection:
        chunks = await chunks_of(connection.model)
    assert [(chunk.num_tokens, chunk.ids) for chunk in chunks] == [(2, ()), (0, ())]


async def test_a_call_cancelled_as_it_is_accepted_ends_on_both_sides():
    """Regression: Serve forgets such a call. Its replica generated on without a reader and the call stayed
    open: after 20,000 invalid or cancelled requests the router had 33 tasks left."""
    engine = ScriptedEngine([HELLO])
    async with connected(engine) as connection:
        reading = asyncio.create_task(chunks_of(connection.model))
        connection.handle.on_accepted = reading.cancel
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(engine.ended.wait(), 5)


class Unpicklable(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (RuntimeError("CUDA error"), errors.ModelFailed),
        (TimeoutError(), errors.ModelFailed),
        (StopAsyncIteration(), errors.ModelFailed),
        (Unpicklable("a", "b"), errors.ModelFailed),
        (EngineDead("the loop stopped"), errors.ModelDied),
        (asyncio.CancelledError(), errors.ModelUnavailable),
        (ContextLengthExceeded(700, 512), errors.ContextLengthExceeded),
        (ContextLengthExceeded(), errors.ContextLengthExceeded),
        (RemoteMisconfigured("a wrong key"), errors.ModelFailed),
        (TurnNotContinued("only begins answers"), errors.ModelFailed),
        (RemoteUnavailable("no answer"), errors.ModelUnavailable),
        (RemoteBusy("no more at present"), errors.ModelOverloaded),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_what_an_engine_raises_arrives_as_a_router_error(raised, kind):
    async with (
        connected(ScriptedEngine([HELLO, raised])) as connection,
        aclosing(connection.model.stream(REQUEST)) as chunks,
    ):
        assert (await anext(chunks)).text == "hello"
        with pytest.raises(errors.RouterError) as caught:
            await anext(chunks)
    assert type(caught.value) is kind
    left = (
        kind is errors.ModelDied
        or isinstance(raised, RemoteUnavailable)
        and kind is not errors.ModelOverloaded
    )
    assert connection.model.replicas.is_verified is not left


async def test_a_replica_that_closes_the_connection_died_with_the_call():
    async with (
        connected(ScriptedEngine([HELLO])) as connection,
        aclosing(connection.model.stream(REQUEST)) as chunks,
    ):
        await anext(chunks)
        assert connection.model.replicas.is_verified
        await connection.server.stop(None)
        with pytest.raises(errors.ModelDied) as caught:
            await anext(chunks)
    assert caught.value.replica == "r1"
    assert connection.model.replicas.ejected == frozenset({"r1"})


async def test_a_replica_that_cancels_its_calls_is_ejected():
    cancelled = EngineChunk(finish=FinishReason.CANCELLED)
    async with connected(ScriptedEngine([HELLO, cancelled])) as connection:
        assert [chunk.finish for chunk in await chunks_of(connection.model)] == [None, "cancelled"]
    assert connection.model.replicas.ejected == frozenset({"r1"})


async def test_an_ejected_replica_that_produces_anything_is_cleared():
    async with connected(ScriptedEngine([HELLO, END])) as connection:
        connection.model.replicas.eject("r1", "test")
        await chunks_of(connection.model)
    assert connection.model.replicas.is_verified


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_a_broken_connection_is_a_death_if_the_call_was_accepted(code):
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    assert type(translate("chem", error, CallPlacement("r1", is_accepted=True))) is errors.ModelDied
    assert type(translate("chem", error, CallPlacement("r1"))) is errors.ModelUnavailable
    assert type(translate("chem", error, CallPlacement())) is errors.ModelUnavailable


TRANSLATIONS: dict[type[ExpertsError], type[errors.RouterError]] = {
    ExpertsError: errors.ModelFailed,
    InvalidCall: errors.InvalidRequest,
    ContextLengthExceeded: errors.ContextLengthExceeded,
    InvalidPrompt: errors.InvalidRequest,
    UnknownAdapter: errors.AdapterMissing,
    ExpertsFault: errors.ModelFailed,
    OtherRelease: errors.ModelUnavailable,
    ModelLoadError: errors.ModelFailed,
    AdapterFailed: errors.AdapterBroken,
    TokenError: errors.ModelFailed,
    TokenMismatch: errors.ModelFailed,
    TemplateError: errors.ModelFailed,
    DataError: errors.ModelFailed,
    EngineDead: errors.ModelUnavailable,
    EngineFailed: errors.ModelFailed,
    RemoteFault: errors.ModelFailed,
    RemoteMisconfigured: errors.ModelFailed,
    TurnNotContinued: errors.ModelFailed,
    RemoteUnavailable: errors.ModelUnavailable,
    RemoteBusy: errors.ModelOverloaded,
}
ARGUMENTS: dict[type[ExpertsError], tuple[object, ...]] = {
    InvalidCall: ("code", "messages", "it is invalid"),
    ContextLengthExceeded: (9, 8),
    InvalidPrompt: ("messages", "it is {invalid}"),
    UnknownAdapter: ("law",),
}


def test_every_error_of_an_engine_has_a_translation():
    def subclasses(kind: type[ExpertsError]) -> set[type[ExpertsError]]:
        return {kind}.union(*map(subclasses, kind.__subclasses__()))

    defined = {kind for kind in subclasses(ExpertsError) if kind.__module__ == "experts.errors"}
    assert defined == TRANSLATIONS.keys(), "say what a router makes of a new error"


@pytest.mark.parametrize("kind", TRANSLATIONS, ids=lambda kind: kind.__name__)
def test_an_error_of_an_engine_is_translated_also_inside_rays_wrapper(kind):
    error = kind(*ARGUMENTS.get(kind, ("it failed",)))
    for raised in (error, RayTaskError("f", "traceback", error).as_instanceof_cause()):
        failure = translate("chem", raised, CallPlacement("r1"))
        assert type(failure) is TRANSLATIONS[kind]
        if isinstance(failure, errors.RequestError):
            assert (failure.message, failure.param, failure.code) == (error.message, error.param, error.code)


async def test_an_own_deadline_stays_a_timeout_and_ends_the_call_in_the_replica():
    engine = ScriptedEngine([HELLO])
    async with connected(engine) as connection, aclosing(connection.model.stream(REQUEST)) as chunks:
        await anext(chunks)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(chunks)
        await asyncio.wait_for(engine.ended.wait(), 5)


async def test_an_own_cancellation_is_not_turned_into_an_error():
    engine = ScriptedEngine([HELLO])
    async with connected(engine) as connection:
        began = asyncio.Event()

        async def read() -> None:
            async with aclosing(connection.model.stream(REQUEST)) as chunks:
                async for _ in chunks:
                    began.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(began.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await asyncio.wait_for(engine.ended.wait(), 5)


@pytest.mark.parametrize(
    ("failure", "kind", "ejected"),
    [
        (BackPressureError(9, 8), errors.ModelOverloaded, set()),
        (ActorUnavailableError("gone", None), errors.ModelUnavailable, {"r1"}),
        (RayTaskError("f", "traceback", EngineFailed("x")).as_instanceof_cause(), errors.ModelFailed, set()),
        (
            RayTaskError("f", "traceback", EngineDead("x")).as_instanceof_cause(),
            errors.ModelUnavailable,
            {"r1"},
        ),
    ],
    ids=["full", "gone", "failed", "dead"],
)
async def test_a_call_that_no_replica_accepts_raises_the_reason(failure, kind, ejected):
    model = RemoteModel("chem", Handle(failure=failure))  # type: ignore[arg-type]
    with pytest.raises(errors.RouterError) as caught:
        await chunks_of(model)
    assert type(caught.value) is kind
    assert model.replicas.ejected == ejected


@pytest.mark.parametrize(
    "raised",
    [RuntimeError("CUDA error\nat 0x0"), TimeoutError(), ValueError("cannot encode 'my secret'")],
    ids=lambda error: type(error).__name__,
)
async def test_an_engines_exception_is_reported_by_type_and_place_alone(raised):
    server = ModelServer(ScriptedEngine([raised]))
    with pytest.raises(EngineFailed) as caught:
        await anext(server.generate(pack(ENGINE_REQUEST)))
    assert re.fullmatch(rf"{type(raised).__name__} at \S+\.py:\d+", str(caught.value))
    assert caught.value.__cause__ is raised


def inline(name: str) -> str:
    return ExpertToken(name, torch.ones(4), 0.0, "meta", "00ff").to_inline()


async def test_a_token_under_another_experts_name_is_refused_and_the_old_tokens_stay():
    engine = ScriptedEngine([])
    server = ModelServer(engine)
    await server.reconfigure({"table_version": 1, "tokens": {"chem": inline("chem"), "law": inline("law")}})
    with pytest.raises(TokenError, match=r"tokens\.law holds the token of 'chem'"):
        await server.reconfigure({"table_version": 2, "tokens": {"law": inline("chem")}})
    assert engine.tokens == {1: ["chem", "law"]}


async def test_the_last_config_that_serve_delivers_counts_whatever_version_it_has():
    engine = ScriptedEngine([])
    server = ModelServer(engine)
    await server.reconfigure({"table_version": 2, "tokens": {"chem": inline("chem")}})
    await server.reconfigure({"table_version": 1, "tokens": {"law": inline("law")}})
    assert engine.tokens[max(engine.tokens)] == ["law"]


async def test_a_replica_that_stops_closes_its_engine():
    engine = ScriptedEngine([])
    await ModelServer(engine).close()
    assert engine.closed
    await ModelServer.__new__(ModelServer).close()  # its engine could not be loaded
