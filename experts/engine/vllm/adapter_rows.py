"""In vLLM's workers, adapters that apply from one position of their request on. vLLM knows adapters that
apply to whole requests."""

from __future__ import annotations

from typing import Any

import numpy as np


def name_of(name: str, number: int, start: int) -> str:
    """The name in vLLM of an adapter that applies from position `start` on."""
    # vLLM's prefix cache tells adapters apart by name alone. So each version has a name of its own, and so
    # has each start: the same text has other keys and values if its adapter began elsewhere.
    return f"{name}#{number}@{start}"


def start_of(lora_request: Any) -> int:
    """The position from which on the adapter of this `LoRARequest` applies."""
    return int(lora_request.lora_name.rpartition("@")[2])


class AdapterRows:
    """Replaces `make_lora_inputs` of a worker's batch: tokens before the start of their request's adapter are
    computed without it."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._make = runner.input_batch.make_lora_inputs
        runner.input_batch.make_lora_inputs = self

    def __call__(
        self, num_tokens: np.ndarray, num_sampled: np.ndarray
    ) -> tuple[tuple[int, ...], tuple[int, ...], set[Any]]:
        """`num_tokens`: int32 [B], of each request in this step.

        Returns:
            The number of the adapter of each sampled token and of each token, 0 for none; and the adapters.
        """
        of_sampled, of_tokens, adapters = self._make(num_tokens, num_sampled)
        plain = self._plain_tokens(num_tokens)
        if plain:
            numbers = np.array(of_tokens)
            for tokens in plain:
                numbers[tokens] = 0
            of_tokens = tuple(numbers.tolist())
        return of_sampled, of_tokens, adapters

    def _plain_tokens(self, num_tokens: np.ndarray) -> list[slice]:
        """Those of the step that come before their adapter."""
        batch, requests = self._runner.input_batch, self._runner.requests
        firsts = np.cumsum(num_tokens) - num_tokens
        found = []
        for i in np.flatnonzero(batch.request_lora_mapping[: batch.num_reqs]):
            start = start_of(requests[batch.req_ids[i]].lora_request)
            num_plain = min(start - int(batch.num_computed_tokens_cpu[i]), int(num_tokens[i]))
            if num_plain > 0:
                found.append(slice(int(firsts[i]), int(firsts[i]) + num_plain))
        return found
