"""One step of a continuous batch: decide which requests hand over, then sample a token for the others."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

from experts.engine.request import EngineRequest
from experts.engine.routing import RequestState, route
from experts.engine.sampling import MIN_TEMPERATURE, gumbel_sample
from experts.head import ExtendedHead
from experts.text.decoder import TokenDecoder


class RoutingLogitsProcessor(ContinuousBatchingLogitsProcessor):
    """Replaces the library's processors and its sampling: the argmax of each row is its next token.

    If an expert wins, the row's next token is `end_id`, at which every request ends, and
    `RequestState.expert` names the expert.
    """

    supported_kwargs: dict[str, type] = {}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, head: ExtendedHead, decoder: TokenDecoder, end_id: int) -> None:
        self._states: dict[str, RequestState] = {}
        self._last_step_s = time.monotonic()
        self._head = head
        self._end_id = end_id
        self._decoder = decoder
        self._generator = torch.Generator(device=head.device)
        self._batch: list[RequestState] = []

    def add(self, request_id: str, state: RequestState) -> None:
        if not self._states:  # the time without a token starts now; before, the engine was idle
            self._last_step_s = time.monotonic()
        self._states[request_id] = state

    def remove(self, request_id: str) -> None:
        self._states.pop(request_id, None)

    @property
    def num_requests(self) -> int:
        """Running and waiting."""
        return len(self._states)

    @property
    def num_tokens_in_flight(self) -> int:
        """Prompt tokens plus tokens that may still be generated, of all requests."""
        return sum(state.num_tokens - state.num_steps for state in self._states.values())

    @property
    def silence_s(self) -> float:
        """How long requests have waited for any token; 0 without requests."""
        return time.monotonic() - self._last_step_s if self._states else 0.0

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        """Only records which requests the next rows of scores belong to.

        Sampling parameters stay in Python, in one object per request.

        Returns int32 [B], which is not used.
        """
        self._batch = [self._state(request) for request in requests_with_new_token]
        return torch.zeros(len(self._batch), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:  # type: ignore[override]
        """Raw logits float [B, V] → the same shape and, where rows were changed, the same memory."""
        states = self._batch
        # The rows that get a token come first, then one row for each prompt whose prefill is not complete.
        ended = self._route(scores, states)
        self._sample(scores[: len(states)], states)
        for i, state in enumerate(states):
            state.num_steps += 1
            if state.abandoned:
                ended.append(i)
        if ended:
            scores[ended, self._end_id] = float("inf")
        self._last_step_s = time.monotonic()
        return scores

    def _state(self, request: FutureRequestState) -> RequestState:
        state = self._states.get(request.state.request_id)
        if state is None:  # cancelled, maybe before the library knew the request: end it now
            return RequestState(EngineRequest(request_id="", temperature=0.0), seed=0, abandoned=True)
        if state.num_steps and state.request.allowed:
            tokens = request.state.generated_tokens or request.state.initial_tokens
            state.add_token(self._decoder.bytes_of(tokens[-1]))
        return state

    def _route(self, scores: Tensor, states: Sequence[RequestState]) -> list[int]:
        """The rows that hand over."""
        table = self._head.table
        rows = [i for i, state in enumerate(states) if table.names and state.may_hand_over]
        if not rows:
            return []
        experts = self._head.expert_logits(len(scores), rows)
        return route(scores, rows, experts, table, [states[i] for i in rows])

    def _sample(self, scores: Tensor, states: Sequence[RequestState]) -> None:
        """Changes `scores`, float [B, V], in place; greedy rows stay as they are."""
        sampled = [i for i, state in enumerate(states) if state.request.temperature >= MIN_TEMPERATURE]
        if sampled:
            scores[sampled] = gumbel_sample(scores[sampled], [states[i] for i in sampled], self._generator)
