"""Hand-overs within a batch: a request goes on with an adapter, on the keys and values that are there.

Only the tokens to which the adapter applies are computed again, in the step that gives its first token.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers.generation.continuous_batching.cache_allocators import (
    SLIDING_ATTENTION,
    SlidingAttentionCacheAllocator,
)
from transformers.generation.continuous_batching.requests import RequestState as LibraryState
from transformers.generation.continuous_batching.requests import RequestStatus

from experts.engine.adapter_slots import LoadedAdapter
from experts.engine.hf.adapters import BatchAdapters
from experts.engine.hf.prefix_cache import PrefixCache
from experts.engine.sampling.routing import Handover, RequestState


class InPlaceExperts:
    """The experts of one request that are adapters of this engine, by name. `max_requests`: of a batch."""

    def __init__(
        self,
        adapters: BatchAdapters,
        by_expert: Mapping[str, LoadedAdapter],
        cache: PrefixCache,
        max_requests: int,
    ) -> None:
        self._adapters = adapters
        self._by_expert = by_expert
        self._cache = cache
        self._max_rows = cache.max_batch_tokens // max_requests  # that every request may add to a step

    def take_over(self, state: RequestState, library: LibraryState) -> bool:
        """Go on with the expert that has won, if it is one of these. Called within the step that it has won
        in."""
        adapter = self._by_expert.get(state.expert or "")
        if adapter is None or state.request.probe:
            return False
        request, tokens = state.request, library.initial_tokens + library.generated_tokens
        is_at_start = not (state.num_steps or request.written or request.resumed)
        start = self._adapters.apply(library.request_id, adapter, tokens, is_at_start=is_at_start)
        state.handover = Handover(state.num_steps, len(tokens) - start)
        self._compute_again(library, _reachable(start, len(tokens), self._cache), tokens)
        return True

    def _compute_again(self, library: LibraryState, start: int, tokens: list[int]) -> None:
        """Have the library compute the tokens from `start` on once more, and take no token from this step."""

        def complete(token_id: int, logprob: float | None) -> bool:
            del library.update_and_check_completion  # the class's own again
            begin = library.position_offset = self._cache.write_again(library.request_id, start)
            if len(tokens) - begin <= self._max_rows:
                library.tokens_to_process = tokens[begin:]
            else:  # it may take several steps, which the library plans for prompts alone
                library.remaining_prefill_tokens = tokens[begin:]
                library.status = RequestStatus.PREFILLING
            return False

        # The library calls this with the token of the step, once the step is complete.
        library.update_and_check_completion = complete  # type: ignore[method-assign]


def _reachable(start: int, num_tokens: int, cache: PrefixCache) -> int:
    """The last position, at most `start`, from which on tokens can be computed again. A sliding window has
    lost the keys that its latest tokens took the place of."""
    sliding = cache.cache_allocators.get(SLIDING_ATTENTION)
    if not isinstance(sliding, SlidingAttentionCacheAllocator) or num_tokens <= sliding.sliding_window:
        return start
    return start if num_tokens - start <= 1 else 0
