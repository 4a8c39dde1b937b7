"""Both ends of a handle, over Serve's own gRPC transport: what an engine raises, and what arrives."""

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
from deployments.replicas import Placement
from experts.engine.base import Call, Chunk, FinishReason
from experts.errors import (
    ContextLengthExceeded,
    EngineDead,
    EngineFailed,
    RemoteBusy,
    RemoteMisconfigured,
    RemoteUnavailable,
    TokenError,
    TurnNotContinued,
)
from experts.token import ExpertToken
from router import errors
from router.model import Ask, Message, Piece, Prompt
from tests.grpc_replica import Handle, ScriptedEngine, line_to

ASK = Ask("r", Prompt(messages=(Message("user", "my secret"),)))
CALL = Call("r", messages=({"role": "user", "content": "my secret"},))
HELLO = Chunk("hello", (1,), num_prompt_tokens=2)
END = Chunk(finish=FinishReason.STOP)


async def pieces_of(model: RemoteModel) -> list[Piece]:
    async with aclosing(model.stream(ASK)) as pieces:
        return [piece async for piece in pieces]


async def test_a_stream_crosses_whole():
    async with line_to(ScriptedEngine([HELLO, END])) as line:
        pieces = await pieces_of(line.model)
    assert [(p.text, p.num_tokens, p.num_prompt_tokens, p.finish) for p in pieces] == [
        ("hello", 1, 2, None),
        ("", 0, None, "stop"),
    ]


async def test_tokens_without_ids_are_counted_all_the_same():
    async with line_to(ScriptedEngine([Chunk("hello you", num_unnamed_tokens=2), END])) as line:
        pieces = await pieces_of(line.model)
    assert [(piece.num_tokens, piece.ids) for piece in pieces] == [(2, ()), (0, ())]


async def test_a_call_given_up_in_the_very_moment_it_is_taken_ends_at_both_ends():
    """Regression: Serve forgets such a call. Its replica wrote on for nobody, and it stayed open for good: of
    20,000 wild requests the router kept 33 tasks."""
    engine = ScriptedEngine([HELLO])
    async with line_to(engine) as line:
        reading = asyncio.create_task(pieces_of(line.model))
        line.handle.on_taken = reading.cancel
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
async def test_what_an_engine_raises_arrives_as_the_routers_own_word(raised, kind):
    async with line_to(ScriptedEngine([HELLO, raised])) as line, aclosing(line.model.stream(ASK)) as pieces:
        assert (await anext(pieces)).text == "hello"
        with pytest.raises(errors.RouterError) as caught:
            await anext(pieces)
    assert type(caught.value) is kind
    left = (
        kind is errors.ModelDied
        or isinstance(raised, RemoteUnavailable)
        and kind is not errors.ModelOverloaded
    )
    assert line.model.replicas.is_proven is not left


async def test_a_replica_that_hangs_up_died_with_the_call():
    async with line_to(ScriptedEngine([HELLO])) as line, aclosing(line.model.stream(ASK)) as pieces:
        await anext(pieces)
        assert line.model.replicas.is_proven
        await line.server.stop(None)
        with pytest.raises(errors.ModelDied) as caught:
            await anext(pieces)
    assert caught.value.replica == "r1"
    assert line.model.replicas.suspects == frozenset({"r1"})


async def test_a_replica_that_gives_its_calls_up_is_suspect():
    cancelled = Chunk(finish=FinishReason.CANCELLED)
    async with line_to(ScriptedEngine([HELLO, cancelled])) as line:
        assert [piece.finish for piece in await pieces_of(line.model)] == [None, "cancelled"]
    assert line.model.replicas.suspects == frozenset({"r1"})


async def test_a_suspect_that_produces_anything_is_cleared():
    async with line_to(ScriptedEngine([HELLO, END])) as line:
        line.model.replicas.suspect("r1", "test")
        await pieces_of(line.model)
    assert line.model.replicas.is_proven


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_a_broken_connection_is_a_death_whatever_its_code_once_the_call_was_accepted(code):
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    assert type(translate("chem", error, Placement("r1", is_accepted=True))) is errors.ModelDied
    assert type(translate("chem", error, Placement("r1"))) is errors.ModelUnavailable
    assert type(translate("chem", error, Placement())) is errors.ModelUnavailable


async def test_our_own_deadline_stays_ours_and_ends_the_far_side():
    engine = ScriptedEngine([HELLO])
    async with line_to(engine) as line, aclosing(line.model.stream(ASK)) as pieces:
        await anext(pieces)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(pieces)
        await asyncio.wait_for(engine.ended.wait(), 5)


async def test_our_own_cancellation_is_not_turned_into_an_error():
    engine = ScriptedEngine([HELLO])
    async with line_to(engine) as line:
        began = asyncio.Event()

        async def read() -> None:
            async with aclosing(line.model.stream(ASK)) as pieces:
                async for _ in pieces:
                    began.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(began.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await asyncio.wait_for(engine.ended.wait(), 5)


@pytest.mark.parametrize(
    ("failure", "kind", "suspects"),
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
async def test_a_call_that_no_replica_accepts_says_why(failure, kind, suspects):
    model = RemoteModel("chem", Handle(failure=failure))  # type: ignore[arg-type]
    with pytest.raises(errors.RouterError) as caught:
        await pieces_of(model)
    assert type(caught.value) is kind
    assert model.replicas.suspects == suspects


@pytest.mark.parametrize(
    "raised",
    [RuntimeError("CUDA error\nat 0x0"), TimeoutError(), ValueError("cannot encode 'my secret'")],
    ids=lambda error: type(error).__name__,
)
async def test_an_engines_own_exception_is_named_by_its_place_and_never_quoted(raised):
    server = ModelServer(ScriptedEngine([raised]))
    with pytest.raises(EngineFailed) as caught:
        await anext(server.generate(CALL))
    assert re.fullmatch(rf"{type(raised).__name__} at \S+\.py:\d+", str(caught.value))
    assert caught.value.__cause__ is raised


def inline(name: str) -> str:
    return ExpertToken(name, torch.ones(4), 0.0, "meta", "00ff").to_inline()


async def test_a_token_under_another_experts_name_is_refused_and_the_old_table_stays():
    engine = ScriptedEngine([])
    server = ModelServer(engine)
    await server.reconfigure({"epoch": 1, "tokens": {"chem": inline("chem"), "law": inline("law")}})
    with pytest.raises(TokenError, match=r"tokens\.law holds the token of 'chem'"):
        await server.reconfigure({"epoch": 2, "tokens": {"law": inline("chem")}})
    assert engine.tokens == {1: ["chem", "law"]}


async def test_a_replica_that_ends_closes_its_engine():
    engine = ScriptedEngine([])
    await ModelServer(engine).close()
    assert engine.closed
    await ModelServer.__new__(ModelServer).close()  # its engine could not be loaded
