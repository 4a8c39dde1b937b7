"""The models that this router has handles to. A handle is created once for each application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from weakref import WeakValueDictionary

from deployments.remote import Deployed
from router.errors import ModelUnavailable

Connect = Callable[[str], Awaitable[Deployed]]


class Connections(Mapping[str, Deployed]):
    """Models by application. `on_unavailable` gets each application that a call found unavailable."""

    def __init__(self, on_unavailable: Callable[[str], None]) -> None:
        self._models: dict[str, Deployed] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._on_unavailable = on_unavailable

    async def connect(self, app: str, connect: Connect) -> None:
        """Connects once, even if several models of the application ask for it at the same time."""
        async with self._lock(app):
            if app not in self._models:
                self.add(app, await connect(app))

    def add(self, app: str, model: Deployed) -> None:
        model.on_unavailable = partial(self._on_unavailable, app)
        self._models[app] = model

    def probe_lock(self, app: str, adapter: str | None) -> AbstractAsyncContextManager[None]:
        """Held while a route probes its target: the answer also counts for other routes to it, which wait."""
        return self._lock(target_key(app, adapter))

    def keep(self, apps: Collection[str]) -> None:
        """Drop the handles to all other applications."""
        self._models = {app: model for app, model in self._models.items() if app in apps}

    @property
    def open_calls(self) -> dict[str, int]:
        """How many calls are under way, by `target_key`."""
        return {
            target_key(app, adapter): num_open
            for app, model in self._models.items()
            for adapter, num_open in model.replicas.calls.num_open.items()
            if num_open
        }

    def __getitem__(self, app: str) -> Deployed:
        if app not in self._models:
            raise ModelUnavailable(f"{app} is not connected yet")
        return self._models[app]

    def __contains__(self, app: object) -> bool:
        return app in self._models  # the method of Mapping expects a KeyError

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


def target_key(app: str, adapter: str | None) -> str:
    """Key of what a call goes to: "app" or "app#adapter" ("#" cannot occur in an application's name)."""
    return app if adapter is None else f"{app}#{adapter}"
