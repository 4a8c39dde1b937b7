"""LoRA adapters on vLLM's model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from experts.adapter import Invocation, read_adapter
from experts.engine.adapter_slots import LoadedAdapter
from experts.engine.vllm.worker_errors import worker_errors
from experts.errors import ModelLoadError

# On a CPU vLLM adds the weights of the last slot to the rows of requests without an adapter.
NUM_EMPTY_SLOTS = 1


class VllmAdapters:
    """Implements `AdapterStore`. `llm` is vLLM's client."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    async def add(self, adapter: LoadedAdapter) -> None:
        try:
            with worker_errors(
                f"{adapter.folder}: adapter '{adapter.name}' cannot be loaded", ModelLoadError
            ):
                await self._llm.add_lora(lora_request(adapter))
        except ModelLoadError:
            await self._llm.remove_lora(adapter.number)  # it may already occupy memory
            raise

    async def remove(self, adapter: LoadedAdapter) -> None:
        # Only when no request uses it: vLLM would load it again for one that does.
        with suppress(EngineDeadError):  # then there is nothing left to free
            await self._llm.remove_lora(adapter.number)


def lora_request(adapter: LoadedAdapter) -> LoRARequest:
    """What vLLM needs to apply the adapter to a request."""
    # A new name for each version, because vLLM's prefix cache tells adapters apart by name alone.
    return LoRARequest(f"{adapter.name}#{adapter.number}", adapter.number, adapter.folder)


def require_applicable(
    folder: str, invocation: Invocation | None, *, hidden_size: int, max_rank: int
) -> None:
    """Checks an adapter before vLLM gets it. vLLM would also read pickles, would ask the hub for a missing
    folder, and would notice an adapter of another model only while it copies the weights.

    Raises ModelLoadError.
    """
    adapter = read_adapter(Path(folder))
    if invocation is not None or adapter.invocation:
        raise ModelLoadError(
            f"{folder}: vLLM applies an adapter to whole prompts, so this one cannot "
            f"{'take over in place' if invocation else 'begin at its invocation tokens'}; use engine: "
            "{kind: transformers}, or an ordinary LoRA in a pool"
        )
    adapter.require_fit(hidden_size=hidden_size, max_rank=max_rank)
