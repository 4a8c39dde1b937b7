"""The LoRA adapters of one replica: loaded, replaced and unloaded while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deployments.error_text import describe
from experts.adapter import Invocation, adapter_digest, adapter_folder
from experts.engine.base import AdapterEngine
from experts.engine.chunk import EngineChunk
from experts.engine.request import EngineRequest
from experts.errors import AdapterFailed, ExpertsError, ModelLoadError, UnknownAdapter
from router.load_report import AdapterLoad

logger = logging.getLogger(__name__)

LOAD_RETRY_S = 30.0  # files that cannot be loaded may be repaired on this node
# A call may arrive before the config that names its adapter, or before the adapter is loaded. It waits less
# than a router waits for a first token, because a replica that is silent that long counts as hung.
CALL_WAIT_S = 2.0
STARTUP_TIMEOUT_S = 60.0  # an adapter whose files do not arrive must not keep the others from being served


class AdapterSource(BaseModel):
    """`source`: a folder or a URI. `digest`: of its files (`adapter_digest`), if the process that wrote the
    config could read them. `invocation`: how the adapter takes over in place; None: it never does."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    digest: str | None = None
    invocation: Invocation | None = None

    @property
    def version(self) -> str:
        """An id of the weights, which changes only when they do."""
        return self.digest or self.source


@dataclass(eq=False)
class _Adapter:
    """The adapter that is wanted (None: to be unloaded) and the one that is loaded; `task` aligns them."""

    wanted: AdapterSource | None = None
    version: str | None = None  # of what is loaded
    error: str = ""
    num_running: int = 0
    num_tokens: int = 0
    wanted_changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def is_done(self) -> bool:
        return self.version == (self.wanted.version if self.wanted else None)

    def load(self, wanted: AdapterSource) -> AdapterLoad:
        return AdapterLoad(wanted.version, self.version, self.error, self.num_running, self.num_tokens)


class ReplicaAdapters:
    """A task for each adapter loads and unloads it, so a failing or slow one does not delay the others.

    An adapter that cannot be loaded is tried again every `LOAD_RETRY_S`. An older version keeps serving.
    """

    def __init__(self, engine: AdapterEngine) -> None:
        self._engine = engine
        self._adapters: dict[str, _Adapter] = {}
        self._changed = asyncio.Event()  # replaced at every change

    def set_wanted(self, sources: Mapping[str, AdapterSource]) -> None:
        """Load these adapters, by name, and unload all others. Returns at once."""
        # Unloaded first, to make room for new ones.
        removed = [self._set_wanted(name, None) for name in sorted(self._adapters.keys() - sources.keys())]
        for name, source in sources.items():
            self._set_wanted(name, source, removed)

    async def wait_until_settled(self, timeout_s: float) -> None:
        """Wait until each adapter is loaded or has failed to load, at most `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not all(adapter.is_done or adapter.error for adapter in self._adapters.values()):
                    await self._changed.wait()

    async def generate(self, name: str, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        """Stream a call that names an adapter.

        Raises:
            UnknownAdapter: it was not loaded within `CALL_WAIT_S`.
            AdapterFailed: it cannot be loaded.
            ExpertsError: as `Engine.generate` says.
        """
        adapter = await self._wait_until_loaded(name)
        adapter.num_running += 1
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    adapter.num_tokens += len(chunk.token_ids)
                    yield chunk
        finally:
            adapter.num_running -= 1

    async def generate_in_place(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        """Stream a call within which an adapter may take over. Raises ExpertsError, as `Engine.generate`."""
        adapter: _Adapter | None = None
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    if adapter is not None:
                        adapter.num_tokens += len(chunk.token_ids)
                    elif chunk.expert is not None and chunk.finish is None:
                        adapter = self._adapters.get(request.in_place[chunk.expert])
                        if adapter is not None:
                            adapter.num_running += 1
                    yield chunk
        finally:
            if adapter is not None:
                adapter.num_running -= 1

    def loads(self) -> dict[str, AdapterLoad]:
        """The load of every wanted adapter, by name."""
        return {
            name: adapter.load(adapter.wanted)
            for name, adapter in self._adapters.items()
            if adapter.wanted is not None
        }

    async def close(self) -> None:
        tasks = [adapter.task for adapter in self._adapters.values() if adapter.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _set_wanted(
        self, name: str, source: AdapterSource | None, after: Collection[asyncio.Task[None]] = ()
    ) -> asyncio.Task[None]:
        adapter = self._adapters.setdefault(name, _Adapter())
        if adapter.wanted != source:
            adapter.wanted, adapter.error = source, ""
            adapter.wanted_changed.set()
        if adapter.task is None or adapter.task.done():
            adapter.task = asyncio.create_task(self._settle(name, adapter, after), name=f"adapter {name}")
        return adapter.task

    async def _settle(self, name: str, adapter: _Adapter, after: Collection[asyncio.Task[None]]) -> None:
        """Try until what is loaded is what is wanted."""
        if after:
            await asyncio.wait(after, timeout=STARTUP_TIMEOUT_S)
        while not adapter.is_done:
            adapter.wanted_changed.clear()
            adapter.error = await self._try(name, adapter)
            self._notify()
            if adapter.error:
                with suppress(TimeoutError):
                    await asyncio.wait_for(adapter.wanted_changed.wait(), LOAD_RETRY_S)
        if adapter.wanted is None:
            del self._adapters[name]
        self._notify()

    async def _try(self, name: str, adapter: _Adapter) -> str:
        """What went wrong; empty if nothing did, or if another version is wanted in the meantime."""
        wanted, folder = adapter.wanted, Path()
        try:
            if wanted is None:
                await self._engine.unload_adapter(name)
                adapter.version = None
            else:
                folder = Path(wanted.source)
                if "://" in wanted.source:
                    folder = await asyncio.to_thread(adapter_folder, wanted.source)
                await self._load(name, adapter, wanted, folder)
        except Exception as error:  # whatever it is, the other adapters must be served
            message = _without_path(error, folder)
            logger.warning("adapter '%s' cannot be loaded or unloaded, and is retried: %s", name, message)
            return message if adapter.wanted is wanted else ""
        return ""

    async def _load(self, name: str, adapter: _Adapter, wanted: AdapterSource, folder: Path) -> None:
        await _require_digest(folder, wanted.digest)
        await self._engine.load_adapter(name, str(folder), wanted.invocation)
        try:
            await _require_digest(folder, wanted.digest)  # the files may have changed while they were read
        except ModelLoadError:
            adapter.version = None
            await self._engine.unload_adapter(name)
            raise
        adapter.version = wanted.version

    async def _wait_until_loaded(self, name: str) -> _Adapter:
        try:
            async with asyncio.timeout(CALL_WAIT_S):
                while (adapter := self._adapters.get(name)) is None or adapter.version is None:
                    if adapter is not None and adapter.error:
                        raise AdapterFailed(f"adapter '{name}' cannot be loaded: {adapter.error}")
                    await self._changed.wait()
        except TimeoutError as error:
            raise UnknownAdapter(name) from error
        return adapter

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def _require_digest(folder: Path, digest: str | None) -> None:
    """Raises ModelLoadError: the files are not those that the config was written for."""
    if digest is not None and await asyncio.to_thread(adapter_digest, folder) != digest:
        raise ModelLoadError(
            f"{folder}: its files changed since they were applied; run `etr apply` to serve the new files, "
            "or put the old ones back"
        )


def _without_path(error: Exception, folder: Path) -> str:
    """Clients may read the message, so it does not reveal where the files lie."""
    message = str(error) if isinstance(error, ExpertsError) else describe(error)
    return message.replace(str(folder), folder.name) if folder.name else message
