"""One step of a continuous batch: route every row, then sample the rows that go on writing."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

from experts.engine.base import Call
from experts.engine.characters import partial_character
from experts.engine.draws import MIN_TEMPERATURE, draw
from experts.engine.routing import Row, route
from experts.head import ExtendedHead


class RoutingSampler(ContinuousBatchingLogitsProcessor):
    """Replaces the batch's processors and its sampling: what it returns is ready for an argmax.

    A row whose expert wins gets the id `head.num_words`, whichever expert it is: the request ends on that id,
    and `Row.expert` says who takes over.
    """

    supported_kwargs: dict[str, type] = {}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, head: ExtendedHead, tokenizer: PreTrainedTokenizerBase, end_id: int | None) -> None:
        self._rows: dict[str, Row] = {}
        self._last_sign_of_life = time.monotonic()
        self._head = head
        self._end_id = end_id
        self._tokenizer = tokenizer
        self._generator = torch.Generator(device=head.device)
        self._batch: list[Row] = []

    def open(self, request_id: str, row: Row) -> None:
        if not self._rows:  # the wait for a token begins now, however long nobody asked
            self._last_sign_of_life = time.monotonic()
        self._rows[request_id] = row

    def close(self, request_id: str) -> None:
        self._rows.pop(request_id, None)

    @property
    def num_open(self) -> int:
        return len(self._rows)

    @property
    def num_tokens_in_flight(self) -> int:
        """Prompts, and what may still be written, of all open requests."""
        return sum(row.num_tokens - row.num_steps for row in self._rows.values())

    @property
    def silent_s(self) -> float:
        """How long open requests have waited for any token."""
        return time.monotonic() - self._last_sign_of_life if self._rows else 0.0

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        """Only notes whose rows the next scores are: parameters stay in Python, one object per request."""
        self._batch = [self._row(request) for request in requests_with_new_token]
        return torch.zeros(len(self._batch), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:  # type: ignore[override]
        """[B, V + E] raw logits → the same shape, where the argmax of a row is its next token."""
        rows, everything = self._batch, scores
        # Behind those that get a token stands a line for each prompt that is not read to its end yet.
        scores = everything[: len(rows)]
        handed_over = self._route(scores, rows)
        scores[:, self._head.num_words :] = float("-inf")
        self._sample(scores[:, : self._head.num_words], rows)
        if handed_over:
            scores[handed_over, self._head.num_words] = float("inf")
        for i, row in enumerate(rows):
            row.num_steps += 1
            if row.forgotten and self._end_id is not None:
                scores[i, self._end_id] = float("inf")
        self._last_sign_of_life = time.monotonic()
        return everything

    def _row(self, request: FutureRequestState) -> Row:
        row = self._rows.get(request.state.request_id)
        if row is None:  # nobody reads it any more; it ends now, even if its cancellation came too early
            return Row(Call(request_id="", temperature=0.0), seed=0, forgotten=True)
        if row.num_steps and row.call.allowed:
            tokens = request.state.generated_tokens or request.state.initial_tokens
            row.partial = partial_character([*row.partial, tokens[-1]], self._tokenizer.decode)
        return row

    def _route(self, scores: Tensor, rows: Sequence[Row]) -> list[int]:
        table = self._head.table
        routed = [i for i, row in enumerate(rows) if table.names and row.routes]
        if not routed:
            return []
        scores = scores if len(routed) == len(rows) else scores[routed]
        handed_over = route(scores, self._head.num_words, table, [rows[i] for i in routed])
        return [routed[i] for i in handed_over]

    def _sample(self, scores: Tensor, rows: Sequence[Row]) -> None:
        """[B, V], in place; greedy rows are left as they are."""
        sampled = [i for i, row in enumerate(rows) if row.call.temperature >= MIN_TEMPERATURE]
        if sampled:
            scores[sampled] = draw(scores[sampled], [rows[i] for i in sampled], self._generator)
