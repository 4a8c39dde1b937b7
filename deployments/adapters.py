"""The LoRA adapters of one replica: loaded, replaced and unloaded while it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deployments.logs import brief
from experts.adapter import adapter_folder
from experts.engine.base import AdapterEngine, Call, Chunk
from experts.errors import AdapterFailed, ExpertsError, UnknownAdapter
from router.load import AdapterLoad

logger = logging.getLogger(__name__)

RETRY_S = 30.0  # what cannot be loaded may be put right on this node
# A call may be here before the news of its adapter, or before that is loaded. Longer than a router waits for
# a first token it must not be: whoever says nothing until then is taken for hung.
PATIENCE_S = 2.0
START_S = 60.0  # an adapter whose files do not come is not to keep the others from being served


class AdapterSource(BaseModel):
    """`source`: a folder or a URI. `digest` is of its files, where whoever named it could read them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    digest: str | None = None

    @property
    def version(self) -> str:
        """The same while the weights are."""
        return self.digest or self.source


@dataclass(eq=False)
class _Adapter:
    """What is wanted (None: nothing any more) and what is there; `keeper` makes the one the other."""

    wanted: AdapterSource | None = None
    version: str | None = None
    error: str = ""
    num_running: int = 0
    num_tokens: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)  # something else is wanted
    keeper: asyncio.Task[None] | None = None

    @property
    def is_done(self) -> bool:
        return self.version == (self.wanted.version if self.wanted else None)


class Adapters:
    """Each has a task of its own that loads and unloads it, so one that fails or lingers is in nobody's way.

    What cannot be loaded is tried again every `RETRY_S`. Where there is an older version, it serves on.
    """

    def __init__(self, engine: AdapterEngine) -> None:
        self._engine = engine
        self._adapters: dict[str, _Adapter] = {}
        self._changed = asyncio.Event()  # replaced at every change

    def want(self, sources: Mapping[str, AdapterSource]) -> None:
        """Have these from now on, and no others; returns at once."""
        # Those that leave make room for those that come.
        leaving = [self._want(name, None) for name in sorted(self._adapters.keys() - sources.keys())]
        for name, source in sources.items():
            self._want(name, source, leaving)

    async def settled(self, limit_s: float) -> None:
        """Wait until each is loaded or has failed to be; `limit_s` at the most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not all(adapter.is_done or adapter.error for adapter in self._adapters.values()):
                    await self._changed.wait()

    async def generate(self, name: str, call: Call) -> AsyncGenerator[Chunk, None]:
        """A call that names an adapter.

        Raises:
            UnknownAdapter: it is not here, nor is it in a moment.
            AdapterFailed: it cannot be loaded.
            ExpertsError: as `Engine.generate` says.
        """
        adapter = await self._there(name)
        adapter.num_running += 1
        try:
            async with aclosing(self._engine.generate(call)) as chunks:
                async for chunk in chunks:
                    adapter.num_tokens += len(chunk.token_ids)
                    yield chunk
        finally:
            adapter.num_running -= 1

    def loads(self) -> dict[str, AdapterLoad]:
        """By name, of those that are wanted."""
        return {
            name: AdapterLoad(it.wanted.version, it.version, it.error, it.num_running, it.num_tokens)
            for name, it in self._adapters.items()
            if it.wanted is not None
        }

    async def close(self) -> None:
        keepers = [adapter.keeper for adapter in self._adapters.values() if adapter.keeper]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    def _want(
        self, name: str, source: AdapterSource | None, after: Collection[asyncio.Task[None]] = ()
    ) -> asyncio.Task[None]:
        adapter = self._adapters.setdefault(name, _Adapter())
        if adapter.wanted != source:
            adapter.wanted, adapter.error = source, ""
            adapter.news.set()
        if adapter.keeper is None or adapter.keeper.done():
            adapter.keeper = asyncio.create_task(self._keep(name, adapter, after), name=f"adapter {name}")
        return adapter.keeper

    async def _keep(self, name: str, adapter: _Adapter, after: Collection[asyncio.Task[None]]) -> None:
        """Until what is there is what is wanted."""
        if after:
            await asyncio.wait(after, timeout=START_S)
        while not adapter.is_done:
            adapter.news.clear()
            adapter.error = await self._try(name, adapter)
            self._tell()
            if adapter.error:
                with suppress(TimeoutError):
                    await asyncio.wait_for(adapter.news.wait(), RETRY_S)
        if adapter.wanted is None:
            del self._adapters[name]
        self._tell()

    async def _try(self, name: str, adapter: _Adapter) -> str:
        """What went wrong; empty if nothing did, or if by now something else is wanted."""
        wanted, folder = adapter.wanted, Path()
        try:
            if wanted is None:
                await self._engine.unload_adapter(name)
            else:
                folder = Path(wanted.source)
                if "://" in wanted.source:
                    folder = await asyncio.to_thread(adapter_folder, wanted.source)
                await self._engine.load_adapter(name, str(folder))
            adapter.version = wanted.version if wanted else None
        except Exception as error:  # whatever it is, all other adapters are to be served
            told = _told(error, folder)
            logger.warning("adapter '%s' is not as it should be, and tried again: %s", name, told)
            return told if adapter.wanted is wanted else ""
        return ""

    async def _there(self, name: str) -> _Adapter:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (adapter := self._adapters.get(name)) is None or adapter.version is None:
                    if adapter is not None and adapter.error:
                        raise AdapterFailed(f"adapter '{name}' cannot be loaded: {adapter.error}")
                    await self._changed.wait()
        except TimeoutError as error:
            raise UnknownAdapter(name) from error
        return adapter

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _told(error: Exception, folder: Path) -> str:
    """Clients may read it: where files lie is nobody's business."""
    words = str(error) if isinstance(error, ExpertsError) else brief(error)
    return words.replace(str(folder), folder.name) if folder.name else words
