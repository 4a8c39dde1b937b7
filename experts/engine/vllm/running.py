"""The requests that run in vLLM, and what they say of the engine's load and health."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk
from experts.engine.vllm.decision_store import DecisionStore
from experts.engine.vllm.request import RunningRequest
from experts.engine.vllm.stats import SchedulerStats


class RunningRequests:
    """`decisions`: of the routed ones among them; `scheduler`: what vLLM says of its steps."""

    def __init__(self, decisions: DecisionStore, scheduler: SchedulerStats) -> None:
        self._decisions = decisions
        self._scheduler = scheduler
        self._by_id: dict[str, RunningRequest] = {}
        self._key_numbers = itertools.count()
        self._num_tokens = 0
        self._last_output_s = time.monotonic()
        self._is_closed = False

    def new_key(self) -> str:
        return str(next(self._key_numbers))

    @property
    def keys(self) -> set[str]:
        return {running.key for running in self._by_id.values()}

    @property
    def silence_s(self) -> float:
        """How long requests have waited for any token; 0 without requests."""
        return time.monotonic() - self._last_output_s if self._by_id else 0.0

    @contextmanager
    def registered(self, running: RunningRequest) -> Iterator[str]:
        """Yields an id for vLLM. The caller's own id occurs twice if a request is retried while its first
        attempt is still ending."""
        if not self._by_id:  # the time without a token starts now; before, the engine was idle
            self._last_output_s = time.monotonic()
        request_id = f"{running.request.request_id}#{running.key}"
        self._by_id[request_id] = running
        try:
            yield request_id
        finally:
            del self._by_id[request_id]
            if running.request.is_routed and not self._is_closed:
                self._decisions.keep_only(self.keys)

    def count(self, chunk: EngineChunk) -> None:
        self._num_tokens += len(chunk.token_ids)
        self._last_output_s = time.monotonic()

    def stats(self) -> EngineStats:
        num_requests = len(self._by_id)
        num_running = min(num_requests, self._scheduler.num_running)
        in_flight = sum(running.num_tokens_left for running in self._by_id.values())
        # The scheduler reports after each step, so its figures of the last step stay when it is idle.
        cache_use = self._scheduler.cache_use if num_requests else 0.0
        return EngineStats(num_running, num_requests - num_running, cache_use, self._num_tokens, in_flight)

    def close(self) -> list[str]:
        """Leave the decision store alone from now on. Returns vLLM's ids of the requests that still run."""
        self._is_closed = True
        return list(self._by_id)
