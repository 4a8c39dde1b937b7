"""What vLLM's scheduler says of itself after each step."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase


class SchedulerWatch:
    """The newest figures; `cache_use` is a fraction of the KV cache."""

    def __init__(self) -> None:
        self.num_running = 0
        self.cache_use = 0.0

    def logger(self, vllm_config: Any, engine_index: int) -> StatLoggerBase:
        """What vLLM takes for a factory of loggers."""
        return _Logger(self)


class _Logger(StatLoggerBase):  # type: ignore[misc]  # of no type where vLLM is not installed
    def __init__(self, watch: SchedulerWatch) -> None:
        self._watch = watch

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        if scheduler_stats is not None:
            self._watch.num_running = scheduler_stats.num_running_reqs
            self._watch.cache_use = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        """There is nothing to say."""
