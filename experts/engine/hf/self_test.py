"""Finds models that a continuous batch computes wrongly, before a client does.

A model computes two prompts in one batch: one of them in two pieces, then several tokens of both. All logits
must be those of a plain forward pass. Most models of the library pass; those that do not keep states other
than keys and values, or ignore the paged cache without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

from experts.engine.hf.batching import create_manager, is_on_cpu, not_batched, wait_until_started
from experts.errors import ModelLoadError

TEXT = "An apple a day keeps the doctor away, 3 + 4 = 7, and who knows what 12 of them would do?"
STEP_TOKENS = 16
PROMPT_LENGTHS = {"long": 24, "short": 7}  # steps: 16 of long; 8 of long and 7 of short; then 1 of each
NUM_DECODED = 5  # odd, for a median
WINDOW = 8  # in place of a sliding window, so that the prompts are longer than it
NUM_CACHE_TOKENS = {True: 1024, False: 4096}  # on a CPU or not; pages have 16 or 256 tokens
# The largest distance of two vectors of logits, as a fraction of their spread. Few bits round differently in
# another order, and can send a token to another expert of a mixture.
TOLERANCES = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.25}


def self_test(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Test a model that `batching.prepare` has prepared; about ten forward passes of 1 to 29 tokens.

    Raises:
        ModelLoadError: continuous batching cannot run it, or computes something else.
    """
    sequences = _sequences(tokenizer)
    with _short_sliding_window(model):
        expected = {key: _plain_logits(model, key, ids) for key, ids in sequences.items()}
        found = _batched_logits(name, model, sequences)
    tolerance = TOLERANCES.get(model.dtype, max(TOLERANCES.values()))
    distances = {key: _distance(found[key], expected[key]) for key in sequences}
    if not all(distance <= tolerance for distance in distances.values()):  # NaN is not
        raise ModelLoadError(
            f"{name}: Hugging Face's continuous batching computes wrong logits for this model (they differ "
            f"from a plain forward pass by {max(distances.values()):.2g} of their spread); use engine: "
            "{kind: vllm}, or another model"
        )


class _Recorder(ContinuousBatchingLogitsProcessor):
    """Keeps the logits of every step, and makes each request continue with its given sequence."""

    supported_kwargs: dict[str, type] = {}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, sequences: Mapping[str, list[int]]) -> None:
        self.logits: dict[str, list[Tensor]] = {key: [] for key in sequences}
        self._sequences = sequences
        self._batch: list[str] = []

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        self._batch = [request.state.request_id for request in requests_with_new_token]
        return torch.zeros(len(self._batch), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:  # type: ignore[override]
        """Raw logits float [B, V] → the same memory, with the given tokens on top."""
        for row, key in enumerate(self._batch):
            next_token = self._sequences[key][PROMPT_LENGTHS[key] + len(self.logits[key])]
            self.logits[key].append(scores[row].clone())
            scores[row, next_token] = float("inf")
        return scores


def _sequences(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """By request, the ids of its prompt and of the tokens that follow; no control token is among them."""
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return {key: list(islice(cycle(ids), length + NUM_DECODED)) for key, length in PROMPT_LENGTHS.items()}


@contextmanager
def _short_sliding_window(model: PreTrainedModel) -> Iterator[None]:
    """A real sliding window has thousands of tokens, and the prompts would never leave it."""
    owners: list[Any] = [model.config.get_text_config(), *model.modules()]
    windows = [(owner, owner.sliding_window) for owner in owners if getattr(owner, "sliding_window", None)]
    try:
        for owner, window in windows:
            owner.sliding_window = min(WINDOW, window)
        yield
    finally:
        for owner, window in windows:
            owner.sliding_window = window


@torch.no_grad()
def _plain_logits(model: PreTrainedModel, key: str, ids: list[int]) -> Tensor:
    """float32 [NUM_DECODED, V], by the attention that defines the model."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    finally:
        model.set_attn_implementation(attention)
    return logits[PROMPT_LENGTHS[key] - 1 : -1].float()


def _batched_logits(
    name: str, model: PreTrainedModel, sequences: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """By request, float32 [NUM_DECODED, V]."""
    recorder = _Recorder(sequences)
    manager = create_manager(
        name,
        model,
        recorder,
        num_tokens=NUM_CACHE_TOKENS[is_on_cpu(model)],
        max_batch_tokens=STEP_TOKENS,
        max_streams=len(sequences),
    )
    manager.start()
    try:
        if wait_until_started(manager) is None:
            _run(manager, sequences)
    finally:
        manager.stop(hard_stop=True)
    if error := manager.background_thread_status.fatal_error:
        raise not_batched(name, error) from error
    return {key: torch.stack(logits) for key, logits in recorder.logits.items()}


def _run(manager: ContinuousBatchingManager, sequences: Mapping[str, list[int]]) -> None:
    """Generate all sequences; if the loop dies, it ends them too."""
    for key, ids in sequences.items():
        manager.add_request(ids[: PROMPT_LENGTHS[key]], request_id=key, max_new_tokens=NUM_DECODED)
    for _ in sequences:
        manager.get_result()


def _distance(found: Tensor, expected: Tensor) -> float:
    """Of two [N, V]: the median over the N positions, because a mixture of experts may choose another expert
    at one of them."""
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((found - expected).norm(dim=-1) / spread).median())
