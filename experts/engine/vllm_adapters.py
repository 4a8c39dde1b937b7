"""LoRA adapters on the engine's one model, loaded and unloaded while it answers."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from experts.errors import ModelLoadError, UnknownAdapter

_PASSED_ON = re.compile(r"Worker failed with error '(.*)', please check the stack trace")


@dataclass(eq=False, slots=True)
class Adapter:
    """`idle` is set while no call has it."""

    request: LoRARequest
    num_calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Adapters:
    """Those that are loaded, by name, and how many calls have them; `limit` of them at most."""

    # One slot for the new version of an adapter, while calls still have the old one. And one that stays
    # empty: on a CPU vLLM adds the last slot's weights to the rows of calls without an adapter.
    NUM_SPARE_SLOTS = 2

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loaded: dict[str, Adapter] = {}
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(limit + 1)
        self._leaving: set[asyncio.Task[None]] = set()

    @contextmanager
    def using(self, name: str | None) -> Iterator[LoRARequest | None]:
        """What a call is to be given, while it runs. Raises UnknownAdapter."""
        if name is None:
            yield None
            return
        adapter = self._loaded.get(name)
        if adapter is None:
            raise UnknownAdapter(name)
        adapter.num_calls += 1
        adapter.idle.clear()
        try:
            yield adapter.request
        finally:
            adapter.num_calls -= 1
            if not adapter.num_calls:
                adapter.idle.set()

    async def load(self, llm: Any, name: str, folder: str) -> None:
        """Returns when calls can have it; those that have the one it replaces keep that."""
        if name not in self._loaded and len(self._loaded) >= self._limit:
            raise ModelLoadError(
                f"{folder}: no room for adapter '{name}' beside {self._limit} others; unload one or raise "
                "engine.max_adapters"
            )
        await self._slots.acquire()  # of those that leave, some calls may still have one
        try:
            adapter = await self._add(llm, name, folder)
        except BaseException:
            self._slots.release()
            raise
        replaced, self._loaded[name] = self._loaded.get(name), adapter
        if replaced is not None:
            self._see_off(llm, replaced)

    def unload(self, llm: Any, name: str) -> None:
        adapter = self._loaded.pop(name, None)
        if adapter is None:
            raise UnknownAdapter(name)
        self._see_off(llm, adapter)

    async def close(self) -> None:
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _add(self, llm: Any, name: str, folder: str) -> Adapter:
        number = next(self._numbers)
        # A name of its own each time: vLLM tells cached prefixes of adapters apart by name alone.
        adapter = Adapter(LoRARequest(f"{name}#{number}", number, folder))
        adapter.idle.set()
        try:
            await llm.add_lora(adapter.request)
        except EngineDeadError:
            raise
        except Exception as error:  # a bare Exception is what vLLM's client raises for any failure over there
            await llm.remove_lora(number)  # it may have got as far as to take up room
            raise ModelLoadError(f"{folder}: adapter '{name}' cannot be loaded: {_reason(error)}") from error
        return adapter

    def _see_off(self, llm: Any, adapter: Adapter) -> None:
        task = asyncio.create_task(self._remove(llm, adapter), name=f"unload {adapter.request.lora_name}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _remove(self, llm: Any, adapter: Adapter) -> None:
        await adapter.idle.wait()  # vLLM would load it again for a call that still has it
        with suppress(EngineDeadError):  # then there is nothing left to free
            await llm.remove_lora(adapter.request.lora_int_id)
        self._slots.release()


def _reason(error: Exception) -> str:
    """The worker's own words, without those of whoever passed them on."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    passed_on = _PASSED_ON.search(first_line)
    return passed_on[1] if passed_on else first_line
