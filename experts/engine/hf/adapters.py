"""LoRA adapters on the model of the default engine, and the adapter of each request in its batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel
from transformers.generation.continuous_batching.requests import FutureRequestState

from experts.adapter import read_adapter
from experts.engine.adapter_slots import LoadedAdapter
from experts.engine.hf.lora_files import read_weights
from experts.engine.hf.lora_layers import LoraLayers

NO_SLOT = -1


class BatchAdapters:
    """Implements `AdapterStore` for up to `num_slots` adapters of up to rank `max_rank`."""

    def __init__(self, model: PreTrainedModel, num_slots: int, max_rank: int) -> None:
        self._model = model
        self._max_rank = max_rank
        self._layers = LoraLayers(model, num_slots, model.device)
        self._free_slots = list(range(num_slots))
        self._slots: dict[int, int] = {}  # by number of the adapter
        self._request_slots: dict[str, int] = {}
        self._loading = asyncio.Lock()

    async def add(self, adapter: LoadedAdapter) -> None:
        async with self._loading:
            slot = min(self._free_slots)  # the lowest, so that those in use lie together
            await asyncio.to_thread(self._load, slot, Path(adapter.folder))
            self._free_slots.remove(slot)
            self._slots[adapter.number] = slot

    async def remove(self, adapter: LoadedAdapter) -> None:
        self._free_slots.append(self._slots.pop(adapter.number))

    def add_request(self, request_id: str, adapter: LoadedAdapter) -> None:
        """Before the generation loop knows the request."""
        self._request_slots[request_id] = self._slots[adapter.number]

    def remove_request(self, request_id: str) -> None:
        self._request_slots.pop(request_id, None)

    def begin_step(self, requests: Sequence[FutureRequestState]) -> None:
        """Called by the generation loop with the requests of its next step, in the order of their rows."""
        slots = self._request_slots
        self._layers.begin_step(
            [(slots.get(each.state.request_id, NO_SLOT), each.query_length) for each in requests]
        )

    def begin_alone(self, request_id: str, num_rows: int) -> None:
        """Called before the model runs on this request alone, between two steps."""
        self._layers.begin_step([(self._request_slots.get(request_id, NO_SLOT), num_rows)])

    def _load(self, slot: int, folder: Path) -> None:
        adapter = read_adapter(folder)
        adapter.require_fit(
            hidden_size=self._model.config.get_text_config().hidden_size, max_rank=self._max_rank
        )
        self._layers.load(slot, read_weights(adapter, self._model, self._model.dtype))
