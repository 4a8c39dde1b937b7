"""A short body travels with the headers of its request.

Serve passes only the headers on, and has the router call the proxy for the body: a call between processes,
there and back, before an answer can begin. Two ASGI middlewares spare it, one in the proxy and one in the
router; what lies between them, Serve passes on as it is.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = "etr.body"  # in the scope's `extensions`
MAX_BYTES = 64 * 1024  # longer ones arrive in parts anyway
# Most clients send the body in a packet of its own, right after the headers. Whoever takes longer is not
# waited for here: it is the router that has deadlines.
PATIENCE_S = 0.02


class SendsBody:
    """In the proxy: puts the body into the scope if it is there, whole and short.

    It is received as well: other applications behind the same proxy know nothing of this.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        first = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({first}, timeout=PATIENCE_S)
            if first.done() and _is_whole(message := first.result()):
                scope = {**scope, "extensions": {**scope.get("extensions", {}), BODY: message["body"]}}
            await self._app(scope, _after(first, receive), send)
        finally:
            first.cancel()


class TakesBody:
    """In the router: the body is there at once, and not a second time when it comes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = scope.get("extensions", {}).get(BODY)
        if body is not None:
            receive = _once(body, receive)
        await self._app(scope, receive, send)


def _is_whole(message: Message) -> bool:
    return (
        message["type"] == "http.request"
        and not message.get("more_body", False)
        and len(message["body"]) <= MAX_BYTES
    )


def _after(first: asyncio.Future[Message], receive: Receive) -> Receive:
    """Receives what `first` is, then what comes in."""
    is_taken = False

    async def received() -> Message:
        nonlocal is_taken
        if is_taken:
            return await receive()
        message = await asyncio.shield(first)
        is_taken = True
        return message

    return received


def _once(body: bytes, receive: Receive) -> Receive:
    """Receives the body, then what comes after it."""
    is_taken = False

    async def received() -> Message:
        nonlocal is_taken
        if not is_taken:
            is_taken = True
            return {"type": "http.request", "body": body, "more_body": False}
        while (message := await receive())["type"] == "http.request":
            pass
        return message

    return received
