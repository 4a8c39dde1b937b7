"""A body that travels with its headers, through what lies between a proxy and a router."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.early_body import MAX_BYTES, SendsBody, TakesBody
from deployments.router import Router

GONE: Message = {"type": "http.disconnect"}


class Between:
    """As Serve: the scope is pickled, and messages are let through when they are."""

    def __init__(self, app: ASGIApp) -> None:
        self.lets_through = asyncio.Event()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            await self.lets_through.wait()
            return await receive()

        await self._app(pickle.loads(pickle.dumps(scope)), received, send)


class Reader:
    """Reads the body, then listens until the client is gone."""

    def __init__(self) -> None:
        self.body = b""
        self.is_read = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more and (message := await receive()) != GONE:
            self.body += message["body"]
            more = message["more_body"]
        self.is_read.set()
        assert await receive() == GONE


def client(*parts: bytes) -> Receive:
    """Sends a body in these parts, and goes."""
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else GONE

    return receive


async def send(message: Message) -> None:
    raise AssertionError(message)


async def ask(app: ASGIApp, receive: Receive) -> None:
    await asyncio.wait_for(app({"type": "http", "headers": []}, receive, send), 5)


def test_the_router_takes_bodies_before_anything_else_reads_them():
    app = Router(max_body_bytes=1).__serve_build_asgi_app__()
    assert cast(object, app.user_middleware[0].cls) is TakesBody


async def test_a_short_body_is_there_before_anything_is_let_through():
    reader = Reader()
    between = Between(TakesBody(reader))
    asking = asyncio.create_task(ask(SendsBody(between), client(b"a body")))
    await asyncio.wait_for(reader.is_read.wait(), 5)
    assert not between.lets_through.is_set()
    between.lets_through.set()
    await asking
    assert reader.body == b"a body"


@pytest.mark.parametrize("parts", [(b"in ", b"parts"), (b"x" * (MAX_BYTES + 1),)], ids=["parts", "long"])
async def test_what_comes_in_parts_or_is_long_is_not_sent_early(parts: tuple[bytes, ...]):
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    await ask(SendsBody(app), client(*parts))
    assert scopes == [{"type": "http", "headers": []}]


async def test_nobody_waits_in_the_proxy_for_a_body_that_does_not_come():
    reader, comes = Reader(), asyncio.Event()
    late = client(b"late")

    async def receive() -> Message:
        await comes.wait()
        return await late()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        comes.set()  # only now that the router has the request
        await reader(scope, receive, send)

    await ask(SendsBody(app), receive)
    assert reader.body == b"late"


async def test_who_goes_without_a_body_is_known_to_be_gone():
    reader = Reader()
    await ask(SendsBody(TakesBody(reader)), client())
    assert reader.body == b""


async def test_an_answer_that_ends_leaves_nobody_listening():
    is_cancelled = asyncio.Event()

    async def receive() -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            is_cancelled.set()
        return GONE

    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    await ask(SendsBody(app), receive)
    await asyncio.wait_for(is_cancelled.wait(), 5)


@pytest.mark.parametrize(
    "chain",
    [lambda app: SendsBody(TakesBody(app)), SendsBody, TakesBody],
    ids=["both", "another application", "another proxy"],
)
@given(parts=st.lists(st.binary(max_size=8), min_size=1, max_size=4))
async def test_every_body_arrives_once_and_whole(chain: Callable[[ASGIApp], ASGIApp], parts: list[bytes]):
    reader = Reader()
    await ask(chain(reader), client(*parts))
    assert reader.body == b"".join(parts)
