"""Which LoRA adapters an engine has loaded, and how many requests use each: the part that both local engines
share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from experts.errors import ModelLoadError, UnknownAdapter

if TYPE_CHECKING:
    from experts.adapter import Invocation


class AdapterStore(Protocol):
    """Holds the weights of an engine's adapters."""

    async def add(self, adapter: LoadedAdapter) -> None:
        """Raises ModelLoadError: it cannot be loaded; then nothing of it stays in memory."""
        ...

    async def remove(self, adapter: LoadedAdapter) -> None:
        """Free its memory. No request uses it any more."""
        ...


@dataclass(eq=False, slots=True)
class LoadedAdapter:
    """`number`: unlike that of any adapter that was loaded before. `invocation`: how it takes over in place.
    `idle` is set while no request uses it."""

    number: int
    name: str
    folder: str
    invocation: Invocation | None = None
    num_requests: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


def num_slots(limit: int) -> int:
    """One more, for a new version of an adapter while requests still use the old one."""
    return limit + 1


class AdapterSlots:
    """The loaded adapters by name, at most `limit`. Their store needs room for `num_slots(limit)`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loaded: dict[str, LoadedAdapter] = {}
        self._numbers = itertools.count(1)
        self._free_slots = asyncio.Semaphore(num_slots(limit))
        self._unloading: set[asyncio.Task[None]] = set()

    @contextmanager
    def using(self, name: str | None) -> Iterator[LoadedAdapter | None]:
        """Keep adapter `name` loaded while a request runs.

        Raises:
            UnknownAdapter: it is not loaded.
        """
        if name is None:
            yield None
            return
        adapter = self._loaded.get(name)
        if adapter is None:
            raise UnknownAdapter(name)
        with _kept([adapter]):
            yield adapter

    @contextmanager
    def using_loaded(self, names: Iterable[str]) -> Iterator[dict[str, LoadedAdapter]]:
        """Keep those of these adapters that are loaded while a request runs that may need any of them."""
        loaded = {name: self._loaded[name] for name in names if name in self._loaded}
        with _kept(loaded.values()):
            yield loaded

    async def load(
        self, store: AdapterStore, name: str, folder: str, invocation: Invocation | None = None
    ) -> None:
        """Load an adapter. Returns once new requests use it; running requests keep the replaced version.

        Raises:
            ModelLoadError: it cannot be loaded, or there is no room for it.
        """
        if name not in self._loaded and len(self._loaded) >= self._limit:
            raise ModelLoadError(
                f"{folder}: no room for adapter '{name}' beside {self._limit} others; unload one or raise "
                "engine.max_adapters"
            )
        await self._free_slots.acquire()  # requests may still use an adapter that is being unloaded
        adapter = LoadedAdapter(next(self._numbers), name, folder, invocation)
        adapter.idle.set()
        with ExitStack() as on_failure:
            on_failure.callback(self._free_slots.release)
            await store.add(adapter)
            on_failure.pop_all()
        replaced, self._loaded[name] = self._loaded.get(name), adapter
        if replaced is not None:
            self._unload_when_idle(store, replaced)

    def unload(self, store: AdapterStore, name: str) -> None:
        """Refuse new requests for the adapter, and free it after the last one. Raises UnknownAdapter."""
        adapter = self._loaded.pop(name, None)
        if adapter is None:
            raise UnknownAdapter(name)
        self._unload_when_idle(store, adapter)

    async def close(self) -> None:
        for task in self._unloading:
            task.cancel()
        await asyncio.gather(*self._unloading, return_exceptions=True)

    def _unload_when_idle(self, store: AdapterStore, adapter: LoadedAdapter) -> None:
        task = asyncio.create_task(self._remove(store, adapter), name=f"unload adapter {adapter.name}")
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _remove(self, store: AdapterStore, adapter: LoadedAdapter) -> None:
        await adapter.idle.wait()
        await store.remove(adapter)
        self._free_slots.release()


@contextmanager
def _kept(adapters: Collection[LoadedAdapter]) -> Iterator[None]:
    for adapter in adapters:
        adapter.num_requests += 1
        adapter.idle.clear()
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.num_requests -= 1
            if not adapter.num_requests:
                adapter.idle.set()
