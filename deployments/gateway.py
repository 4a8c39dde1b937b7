"""What one router replica knows: the route table, a handle to every model, and which of them answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial

from deployments.remote import Connections, RemoteModel
from router.errors import ModelUnavailable, RouterError
from router.model import Ask, Message, Prompt, Sampling
from router.table import ModelEntry, RouteTable

logger = logging.getLogger(__name__)

Connect = Callable[[str], Awaitable[RemoteModel]]

PROBE = Ask(
    request_id="probe",
    prompt=Prompt(messages=(Message("user", "ping"),)),
    sampling=Sampling(temperature=0.0),
    max_tokens=1,
)
MAX_PAUSE_S = 2.0


class Gateway:
    """Opens a route when its model has answered a request: RUNNING says only that a process is up."""

    def __init__(self, connect: Connect, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self.models = Connections()
        self.meta_ready = False
        self.ready: set[str] = set()
        self._connect = connect
        self._table: RouteTable | None = None
        self._openers: dict[str, asyncio.Task[None]] = {}

    @property
    def table(self) -> RouteTable:
        if self._table is None:
            raise ModelUnavailable("this router has no route table yet")
        return self._table

    async def install(self, table: RouteTable) -> None:
        """Replace the table; answers under way finish on the one they began with."""
        old, self._table = self._table, table
        for name in list(self.ready):
            if name not in table.experts or (old and old.experts[name] != table.experts[name]):
                self.ready.discard(name)
        if old is not None and old.meta != table.meta:
            self.meta_ready = False
        await self._stop_openers()
        if not self.meta_ready:
            self._open("meta", table.meta, self._open_meta)
        for name, entry in table.experts.items():
            if name not in self.ready:
                self._open(name, entry, partial(self.ready.add, name))

    async def close(self) -> None:
        await self._stop_openers()

    def _open(self, name: str, entry: ModelEntry, opened: Callable[[], None]) -> None:
        self._openers[name] = asyncio.create_task(self._open_route(entry, opened), name=f"open {name}")

    async def _open_route(self, entry: ModelEntry, opened: Callable[[], None]) -> None:
        pause_s = 0.1
        while True:
            try:
                self.models.add(entry.app, model := await self._connect(entry.app))
                if entry.wakes:  # a question would start it; it is called when somebody needs it
                    return
                await _answer(model)
                opened()
                return
            except RouterError as error:
                logger.info("%s does not answer yet: %s", entry.app, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _open_meta(self) -> None:
        self.meta_ready = True

    async def _stop_openers(self) -> None:
        for task in self._openers.values():
            task.cancel()
        for task in self._openers.values():
            with suppress(asyncio.CancelledError):
                await task
        self._openers.clear()


async def _answer(model: RemoteModel) -> None:
    async with aclosing(model.stream(PROBE)) as pieces:
        async for piece in pieces:
            if piece.finish:
                return
    raise ModelUnavailable("the stream ended without a finish reason")
