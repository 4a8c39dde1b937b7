"""What one router replica knows: the route table, a handle to every model, and which of them answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from deployments.remote import Connections
from router.errors import ModelStalled, ModelUnavailable, RouterError
from router.model import Ask, Finish, Message, Model, Prompt, Sampling
from router.table import META, ModelEntry, RouteTable

logger = logging.getLogger(__name__)

Connect = Callable[[str], Awaitable[Model]]

PROBE = Ask(
    request_id="probe",
    prompt=Prompt(messages=(Message("user", "ping"),)),
    sampling=Sampling(temperature=0.0),
    max_tokens=1,
)
MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0


class Gateway:
    """Opens a route when its model has answered a request: RUNNING says only that a process is up.

    A route closes again when a call finds its model away, and is then probed like a new one.
    """

    def __init__(self, connect: Connect, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self.models = Connections(self.lost)
        self.ready: set[str] = set()  # names of open routes, the meta's among them
        self._connect = connect
        self._table: RouteTable | None = None
        self._openers: dict[str, asyncio.Task[None]] = {}

    @property
    def table(self) -> RouteTable:
        if self._table is None:
            raise ModelUnavailable("this router has no route table yet")
        return self._table

    @property
    def meta_ready(self) -> bool:
        return META in self.ready

    async def install(self, table: RouteTable) -> None:
        """Replace the table. Answers under way go on with the one they began with, but find no model that
        only the old one names."""
        # Nothing is awaited before the new openers run: a model lost meanwhile must not get a second one.
        old = self._entries()
        self._table = table
        new = self._entries()
        self.ready.intersection_update([name for name in new if old.get(name) == new[name]])
        self.models.keep({entry.app for entry in new.values()})
        stopped = self._cancel_openers()
        for name, entry in new.items():
            if name not in self.ready:
                self._open(name, entry)
        await asyncio.gather(*stopped, return_exceptions=True)

    def lost(self, app: str) -> None:
        """A call found the model of `app` away: close its routes until it has answered again."""
        for name, entry in self._entries().items():
            # A route that is not open has its opener already, or is one that a call wakes.
            if entry.app == app and name in self.ready:
                logger.warning("%s is away; the route '%s' is closed until it answers", app, name)
                self.ready.discard(name)
                self._open(name, entry)

    async def close(self) -> None:
        self.ready.clear()  # or an answer that fails from now on would start an opener
        await asyncio.gather(*self._cancel_openers(), return_exceptions=True)

    def _entries(self) -> dict[str, ModelEntry]:
        return {} if self._table is None else {META: self._table.meta, **self._table.experts}

    def _cancel_openers(self) -> list[asyncio.Task[None]]:
        stopped = list(self._openers.values())
        self._openers.clear()
        for task in stopped:
            task.cancel()
        return stopped

    def _open(self, name: str, entry: ModelEntry) -> None:
        self._openers[name] = asyncio.create_task(self._open_route(name, entry), name=f"open {name}")

    async def _open_route(self, name: str, entry: ModelEntry) -> None:
        pause_s, told = MIN_PAUSE_S, False
        while True:
            try:
                return await self._try_to_open(name, entry)
            except RouterError as error:
                logger.info("%s does not answer yet: %s", entry.app, error)
            except Exception:  # whatever it is, the route must not stay closed for good
                if not told:
                    logger.exception("opening the route to %s failed; it is tried again", entry.app)
                told = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _try_to_open(self, name: str, entry: ModelEntry) -> None:
        if entry.app not in self.models:  # a handle outlives the replicas behind it, and is not free
            self.models.add(entry.app, await self._connect(entry.app))
        if entry.wakes:  # a question would start it; it is called when somebody needs it
            return
        await _answer(self.models[entry.app], self.table.deadlines.first_token_s)
        self.ready.add(name)


async def _answer(model: Model, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s), aclosing(model.stream(PROBE)) as pieces:
            async for piece in pieces:
                if piece.finish is Finish.CANCELLED:
                    break  # a replica that shuts down
                if piece.finish:
                    return
    except TimeoutError as error:
        raise ModelStalled(f"no answer within {limit_s:g} s") from error
    raise ModelUnavailable("the stream ended without an answer")
