"""The figures that vLLM's scheduler reports after each step."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase


class SchedulerStats:
    """The latest figures: requests in the batch, and the fraction of the KV cache in use (0 to 1)."""

    def __init__(self) -> None:
        self.num_running = 0
        self.cache_use = 0.0

    def logger(self, vllm_config: Any, engine_index: int) -> StatLoggerBase:
        """A factory of loggers, as vLLM's `stat_loggers` takes it."""
        return _Logger(self)


class _Logger(StatLoggerBase):  # type: ignore[misc]  # untyped if vLLM is not installed
    def __init__(self, stats: SchedulerStats) -> None:
        self._stats = stats

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        if scheduler_stats is not None:
            self._stats.num_running = scheduler_stats.num_running_reqs
            self._stats.cache_use = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        """Required by the base class; there is nothing to log."""
