"""One step of a continuous batch: decide which requests hand over, then sample a token for the others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.continuous_batching.requests import RequestState as LibraryState

from experts.engine.hf.in_place import InPlaceExperts
from experts.engine.request import EngineRequest
from experts.engine.sampling.gumbel import MIN_TEMPERATURE, choose_tokens, gumbel_sample
from experts.engine.sampling.logprobs import logprobs_of
from experts.engine.sampling.routing import RequestState, route
from experts.head import ExtendedHead
from experts.text.decoder import TokenDecoder


class RoutingLogitsProcessor(ContinuousBatchingLogitsProcessor):
    """Replaces the library's processors and its sampling: the argmax of each row is its next token.

    If an expert wins, `RequestState.expert` names it. The row's next token is `end_id`, at which its request
    ends, unless the expert takes over in place: then the row gets no token at this step.
    """

    supported_kwargs: dict[str, type] = {}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, head: ExtendedHead, decoder: TokenDecoder, end_id: int) -> None:
        self._states: dict[str, RequestState] = {}
        self._in_place: dict[str, InPlaceExperts] = {}
        self._last_step_s = time.monotonic()
        self._head = head
        self._end_id = end_id
        self._decoder = decoder
        self._generator = torch.Generator(device=head.device)
        self._batch: list[RequestState] = []
        self._library_states: list[LibraryState] = []

    def add(self, request_id: str, state: RequestState, in_place: InPlaceExperts | None = None) -> None:
        if not self._states:  # the time without a token starts now; before, the engine was idle
            self._last_step_s = time.monotonic()
        if in_place is not None:
            self._in_place[request_id] = in_place
        self._states[request_id] = state

    def remove(self, request_id: str) -> None:
        self._states.pop(request_id, None)
        self._in_place.pop(request_id, None)

    def request(self, request_id: str) -> EngineRequest | None:
        """None if the request was not added, or is removed."""
        state = self._states.get(request_id)
        return None if state is None else state.request

    def found_in_cache(self, request_id: str, num_tokens: int) -> None:
        """Called when a prompt is about to be read, also again after the request was preempted."""
        state = self._states.get(request_id)
        if state is not None and not state.num_steps:
            state.num_cached_tokens = num_tokens

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
        self._library_states = [request.state for request in requests_with_new_token]
        return torch.zeros(len(self._batch), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:  # type: ignore[override]
        """Raw logits float [B, V] → the same shape and, where rows were changed, the same memory."""
        states = self._batch
        # The rows that get a token come first, then one row for each prompt whose prefill is not complete.
        handing_over = self._route(scores, states)
        going_on = [i for i in handing_over if self._goes_on(i)] if self._in_place else []
        choosing = {i: state for i, state in enumerate(states) if state.chooser and i not in handing_over}
        chosen = self._choose(scores, choosing) if choosing else {}
        self._sample(scores, [i for i in range(len(states)) if i not in chosen])
        ended = [i for i in handing_over if i not in going_on]
        for i, state in enumerate(states):
            if i not in going_on:
                state.num_steps += 1
            if state.abandoned:
                ended.append(i)
        if chosen:
            scores[list(chosen), list(chosen.values())] = float("inf")
        if ended:
            scores[ended, self._end_id] = float("inf")
            for i in ended:  # requests with `ignore_eos` do not end at this token otherwise
                self._library_states[i]._eos_token_ids.add(self._end_id)
        self._last_step_s = time.monotonic()
        return scores

    def _state(self, request: FutureRequestState) -> RequestState:
        state = self._states.get(request.state.request_id)
        if state is None:  # cancelled, maybe before the library knew the request: end it now
            return RequestState(EngineRequest(request_id="", temperature=0.0), seed=0, abandoned=True)
        if state.num_steps and state.request.is_routed and state.handover is None:
            tokens = request.state.generated_tokens or request.state.initial_tokens
            state.add_token(self._decoder.bytes_of(tokens[-1]))
        return state

    def _route(self, scores: Tensor, states: Sequence[RequestState]) -> list[int]:
        """The rows that hand over."""
        table = self._head.table
        rows = [i for i, state in enumerate(states) if table.scores_any and state.may_hand_over]
        if not rows:
            return []
        hidden = self._head.inputs(len(scores), rows)
        return route(scores, rows, hidden, table, self._head.transform, [states[i] for i in rows])

    def _goes_on(self, row: int) -> bool:
        """Whether the expert that has won this row takes over in place."""
        library = self._library_states[row]
        in_place = self._in_place.get(library.request_id)
        return in_place is not None and in_place.take_over(self._batch[row], library)

    def _choose(self, scores: Tensor, states: Mapping[int, RequestState]) -> dict[int, int]:
        """The tokens, by row, of requests with further rules or log-probabilities; `scores` are only read."""
        chosen = choose_tokens(scores, states, self._generator)
        nums = {i: num for i in chosen if (num := _num_logprobs(states[i])) is not None}
        if nums:
            found = logprobs_of(scores[list(nums)], [chosen[i] for i in nums], list(nums.values()))
            for i, each in zip(nums, found, strict=True):
                states[i].logprobs.append(each)
        return chosen

    def _sample(self, scores: Tensor, rows: Sequence[int]) -> None:
        """Changes `scores`, float [B, V], in place; greedy rows stay as they are."""
        sampled = [i for i in rows if self._batch[i].request.temperature >= MIN_TEMPERATURE]
        if sampled:
            states = [self._batch[i] for i in sampled]
            scores[sampled] = gumbel_sample(scores[sampled], states, self._generator)


def _num_logprobs(state: RequestState) -> int | None:
    return state.request.sampling.num_logprobs if state.request.sampling else None
