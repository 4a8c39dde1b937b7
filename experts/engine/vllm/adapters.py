"""LoRA adapters on vLLM's model."""

from __future__ import annotations

import asyncio
import json
import shutil
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from experts.adapter import CONFIG, INVOCATION_TOKENS, WEIGHTS, Adapter, activation_start, read_adapter
from experts.engine.adapter_slots import LoadedAdapter
from experts.engine.vllm.adapter_rows import name_of
from experts.engine.vllm.worker_errors import worker_errors
from experts.errors import ModelLoadError

# On a CPU vLLM adds the weights of the last slot to the rows of requests without an adapter.
NUM_EMPTY_SLOTS = 1


@dataclass(frozen=True, slots=True)
class _Files:
    """`folder`: what vLLM reads. `activation`: where the adapter applies (`Adapter.activation`)."""

    folder: str
    activation: tuple[int, ...] | None

    def request(self, adapter: LoadedAdapter, start: int) -> LoRARequest:
        """Apply the adapter from position `start` on."""
        return LoRARequest(name_of(adapter.name, adapter.number, start), adapter.number, self.folder)


class VllmAdapters:
    """Implements `AdapterStore`. `llm` is vLLM's client; `hidden_size` is the model's."""

    def __init__(self, llm: Any, *, hidden_size: int, max_rank: int) -> None:
        self._llm = llm
        self._hidden_size = hidden_size
        self._max_rank = max_rank
        self._files: dict[int, _Files] = {}  # by number of the adapter
        self._folder = Path(mkdtemp(prefix="etr-adapters-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    async def add(self, adapter: LoadedAdapter) -> None:
        files = await asyncio.to_thread(self._read, adapter)
        try:
            with worker_errors(
                f"{adapter.folder}: adapter '{adapter.name}' cannot be loaded", ModelLoadError
            ):
                await self._llm.add_lora(files.request(adapter, 0))
        except ModelLoadError:
            await self._llm.remove_lora(adapter.number)  # it may already occupy memory
            raise
        self._files[adapter.number] = files

    async def remove(self, adapter: LoadedAdapter) -> None:
        # Only when no request uses it: vLLM would load it again for one that does.
        with suppress(EngineDeadError):  # then there is nothing left to free
            await self._llm.remove_lora(adapter.number)
        del self._files[adapter.number]
        shutil.rmtree(self._folder / str(adapter.number), ignore_errors=True)

    def request(self, adapter: LoadedAdapter, ids: Sequence[int], *, is_at_start: bool) -> LoRARequest:
        """What vLLM needs to apply the adapter to a request: after the tokens `ids`, or from one of them on
        (see `activation_start`)."""
        files = self._files[adapter.number]
        return files.request(adapter, activation_start(files.activation, ids, is_at_start=is_at_start))

    def _read(self, adapter: LoadedAdapter) -> _Files:
        """Checks the adapter before vLLM gets it. vLLM would also read pickles, would ask the hub for a
        missing folder, and would notice an adapter of another model only while it copies the weights.

        Raises ModelLoadError.
        """
        found = read_adapter(Path(adapter.folder))
        activation = found.activation(adapter.invocation)
        found.require_fit(hidden_size=self._hidden_size, max_rank=self._max_rank)
        if not found.invocation:
            return _Files(adapter.folder, activation)
        plain = self._folder / str(adapter.number)
        _write_plain(found, plain)
        return _Files(str(plain), activation)


def _write_plain(adapter: Adapter, folder: Path) -> None:
    """The same weights as an ordinary LoRA: vLLM refuses activated ones, because it applies all from the
    start."""
    folder.mkdir()
    settings = {key: value for key, value in adapter.settings.items() if key != INVOCATION_TOKENS}
    (folder / CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    (folder / WEIGHTS).symlink_to((adapter.folder / WEIGHTS).absolute())
