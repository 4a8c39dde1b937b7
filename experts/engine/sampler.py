"""One step of a continuous batch: route every row, then sample the rows that go on writing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

from experts.engine.base import Call
from experts.engine.characters import partial_character
from experts.engine.draws import draw_seed
from experts.head import ExpertTable, ExtendedHead, decide, distribution

MIN_TEMPERATURE = 1e-5  # below it the quotients leave float32, and the limit is greedy anyway


@dataclass(frozen=True, slots=True)
class ExpertMasks:
    """What one request allows of one table: bool [E], and float [E] of its biases."""

    table: ExpertTable
    allowed: Tensor
    bias: Tensor


@dataclass(slots=True)
class Row:
    """What the sampler knows of one request; the generation thread alone changes it while it runs.

    `num_tokens`: of the prompt, and at most to be written.
    """

    call: Call
    seed: int
    num_tokens: int = 0
    forgotten: bool = False
    num_steps: int = 0
    partial: list[int] = field(default_factory=list)
    masks: ExpertMasks | None = None
    expert: str | None = None
    probability: float | None = None
    distribution: dict[str, float] | None = None

    @property
    def routes(self) -> bool:
        """Whether an expert may win the next token. Never inside a character: its bytes have one author."""
        return (
            bool(self.call.allowed) and not self.partial and not (self.num_steps and self.call.only_at_start)
        )


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
        rows = self._batch
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
        return scores

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
        masks = [self._masks(rows[i], table) for i in routed]
        allowed = torch.stack([mask.allowed for mask in masks])
        bias = torch.stack([mask.bias for mask in masks])
        scores = scores if len(routed) == len(rows) else scores[routed]
        if any(rows[i].call.probe for i in routed):
            self._probe(scores, [rows[i] for i in routed], allowed, bias)
        decision = decide(scores, self._head.num_words, allowed, bias)
        winners = decision.expert.tolist()
        for i, winner, probability in zip(routed, winners, decision.probability.tolist(), strict=True):
            if winner >= 0:
                rows[i].expert, rows[i].probability = table.names[winner], probability
        return [i for i, winner in zip(routed, winners, strict=True) if winner >= 0]

    def _masks(self, row: Row, table: ExpertTable) -> ExpertMasks:
        """Made once per request and table: with a thousand experts, too much to make at every step."""
        if row.masks is None or row.masks.table is not table:
            allowed = set(row.call.allowed)
            bias = [row.call.bias.get(name, 0.0) for name in table.names]
            row.masks = ExpertMasks(
                table,
                torch.tensor([name in allowed for name in table.names], device=self._head.device),
                torch.tensor(bias, device=self._head.device),
            )
        return row.masks

    def _probe(self, scores: Tensor, rows: Sequence[Row], allowed: Tensor, bias: Tensor) -> None:
        table = distribution(scores, self._head.num_words, allowed, bias).tolist()
        for row, probabilities in zip(rows, table, strict=True):
            named = dict(zip(self._head.table.names, probabilities, strict=True))
            row.distribution = {name: p for name, p in named.items() if name in row.call.allowed}

    def _sample(self, scores: Tensor, rows: Sequence[Row]) -> None:
        """[B, V], in place; greedy rows are left as they are."""
        sampled = [i for i, row in enumerate(rows) if row.call.temperature >= MIN_TEMPERATURE]
        if not sampled:
            return
        shaped = shape(scores[sampled], [rows[i].call for i in sampled])
        for scores_row, i in zip(shaped, sampled, strict=True):
            scores[i] = scores_row - self._noise(scores_row, rows[i]).log()

    def _noise(self, like: Tensor, row: Row) -> Tensor:
        """Exponential noise: the argmax of log p − log noise is a draw from p (the Gumbel-max trick)."""
        self._generator.manual_seed(draw_seed(row.seed, row.call.position + row.num_steps))
        return torch.empty_like(like).exponential_(generator=self._generator)


def shape(scores: Tensor, calls: Sequence[Call]) -> Tensor:
    """Temperature, top-k and top-p, each row its own: [B, V] → [B, V], −inf where nothing may be drawn."""
    temperature = scores.new_tensor([call.temperature for call in calls]).unsqueeze(-1)
    scores = scores / temperature
    if all(call.top_k <= 0 and call.top_p >= 1 for call in calls):
        return scores
    ordered, index = scores.sort(dim=-1, descending=True)
    width = scores.shape[-1]
    top_k = torch.tensor([call.top_k or width for call in calls], device=scores.device).unsqueeze(-1)
    top_p = scores.new_tensor([call.top_p for call in calls]).unsqueeze(-1)
    ordered = ordered.masked_fill(torch.arange(width, device=scores.device) >= top_k, float("-inf"))
    probs = ordered.softmax(dim=-1)
    beyond = probs.cumsum(dim=-1) - probs >= top_p
    beyond[..., 0] = False  # the likeliest stays, however small top_p is
    ordered = ordered.masked_fill(beyond, float("-inf"))
    return torch.empty_like(scores).scatter_(-1, index, ordered)
