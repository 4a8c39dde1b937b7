"""LoRA adapters on the model of the default engine, and the adapter of each request in its batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel
from transformers.generation.continuous_batching.requests import FutureRequestState

from experts.adapter import activation_start, read_adapter
from experts.engine.adapter_slots import LoadedAdapter
from experts.engine.hf.lora_files import read_weights
from experts.engine.hf.lora_layers import LoraLayers
from experts.engine.hf.prefix_cache import Writer

NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an adapter is, and where it applies (`Adapter.activation`)."""

    slot: int
    activation: tuple[int, ...] | None

    def start(self, ids: Sequence[int], *, is_at_start: bool) -> int:
        return activation_start(self.activation, ids, is_at_start=is_at_start)


@dataclass(frozen=True, slots=True)
class _Applied:
    slot: int
    writer: Writer


class BatchAdapters:
    """Implements `AdapterStore` for up to `num_slots` adapters of up to rank `max_rank`."""

    def __init__(self, model: PreTrainedModel, num_slots: int, max_rank: int) -> None:
        self._model = model
        self._max_rank = max_rank
        self._layers = LoraLayers(model, num_slots, model.device)
        self._free_slots = list(range(num_slots))
        self._places: dict[int, _Place] = {}  # by number of the adapter
        self._applied: dict[str, _Applied] = {}  # by request
        self._loading = asyncio.Lock()

    async def add(self, adapter: LoadedAdapter) -> None:
        async with self._loading:
            slot = min(self._free_slots)  # the lowest, so that those in use lie together
            place = await asyncio.to_thread(self._load, slot, adapter)
            self._free_slots.remove(slot)
            self._places[adapter.number] = place

    async def remove(self, adapter: LoadedAdapter) -> None:
        self._free_slots.append(self._places.pop(adapter.number).slot)

    def apply(self, request_id: str, adapter: LoadedAdapter, ids: Sequence[int], *, is_at_start: bool) -> int:
        """From the next step on, compute the request with this adapter. Returns the position from which on it
        applies (see `activation_start`)."""
        place = self._places[adapter.number]
        start = place.start(ids, is_at_start=is_at_start)
        self._applied[request_id] = _Applied(place.slot, Writer(adapter.number, start))
        return start

    def writer(self, request_id: str) -> Writer:
        applied = self._applied.get(request_id)
        return applied.writer if applied else Writer()

    def remove_request(self, request_id: str) -> None:
        self._applied.pop(request_id, None)

    def begin_step(self, requests: Sequence[FutureRequestState]) -> None:
        """Called by the generation loop with the requests of its next step, in the order of their rows. The
        library has counted these rows among the computed ones already."""
        spans: list[tuple[int, int]] = []
        for each in requests:
            num_before = each.state.position_offset - each.query_length
            spans += self._spans(each.state.request_id, num_before, each.query_length)
        self._layers.begin_step(spans)

    def begin_alone(self, request_id: str, num_rows: int) -> None:
        """Called before the model runs on this request alone, between two steps."""
        self._layers.begin_step(self._spans(request_id, 0, num_rows))

    def _spans(self, request_id: str, num_before: int, num_rows: int) -> list[tuple[int, int]]:
        """Slots and numbers of rows, of a request with so many computed tokens before these rows."""
        applied = self._applied.get(request_id)
        if applied is None:
            return [(NO_SLOT, num_rows)]
        num_plain = min(max(applied.writer.start - num_before, 0), num_rows)
        spans = (NO_SLOT, num_plain), (applied.slot, num_rows - num_plain)
        return [span for span in spans if span[1]]

    def _load(self, slot: int, adapter: LoadedAdapter) -> _Place:
        files = read_adapter(Path(adapter.folder))
        activation = files.activation(adapter.invocation)
        files.require_fit(
            hidden_size=self._model.config.get_text_config().hidden_size, max_rank=self._max_rank
        )
        self._layers.load(slot, read_weights(files, self._model, self._model.dtype))
        return _Place(slot, activation)
