"""The models that this router has handles to: made once for each application, and how many calls are open."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from weakref import WeakValueDictionary

from deployments.remote import Deployed
from deployments.replicas import ReplicaSet
from router.errors import ModelOverloaded, ModelUnavailable
from router.model import Ask, Piece

Connect = Callable[[str], Awaitable[Deployed]]


class Connections(Mapping[str, Deployed]):
    """The models this router has handles to, by application; `lost` hears of each that is found away."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._models: dict[str, _Watched] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._lost = lost

    async def connect(self, app: str, connect: Connect) -> None:
        """Once, however many models of the application ask for it at the same time."""
        async with self._lock(app):
            if app not in self._models:
                self.add(app, await connect(app))

    def add(self, app: str, model: Deployed) -> None:
        self._models[app] = _Watched(app, model, self._lost)

    def one_asks(self, app: str, adapter: str | None) -> AbstractAsyncContextManager[None]:
        """Several routes may lead to one place; while the block runs, the others wait."""
        return self._lock(place(app, adapter))

    def keep(self, apps: Collection[str]) -> None:
        """Let go of every other application."""
        self._models = {app: model for app, model in self._models.items() if app in apps}

    @property
    def open_calls(self) -> dict[str, int]:
        """How many calls are under way, by `place`."""
        return {
            place(app, adapter): num_open
            for app, model in self._models.items()
            for adapter, num_open in model.num_open.items()
            if num_open
        }

    def __getitem__(self, app: str) -> Deployed:
        if app not in self._models:
            raise ModelUnavailable(f"{app} is not connected yet")
        return self._models[app]

    def __contains__(self, app: object) -> bool:
        return app in self._models  # Mapping's own waits for a KeyError

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


class _Watched:
    """A model that tells when a call finds it away; one that is merely busy is not. Counts its calls."""

    def __init__(self, app: str, model: Deployed, lost: Callable[[str], None]) -> None:
        self.num_open: Counter[str | None] = Counter()  # by adapter
        self._app = app
        self._model = model
        self._lost = lost

    @property
    def replicas(self) -> ReplicaSet:
        return self._model.replicas

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        self.num_open[ask.adapter] += 1
        try:
            async with aclosing(self._model.stream(ask)) as pieces:
                async for piece in pieces:
                    yield piece
        except ModelOverloaded:
            raise
        except ModelUnavailable:
            self._lost(self._app)
            raise
        finally:
            self.num_open[ask.adapter] -= 1


def place(app: str, adapter: str | None) -> str:
    """One word for what a call goes to; no application's name has the sign."""
    return app if adapter is None else f"{app}#{adapter}"
