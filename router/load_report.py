"""The router's third port: how busy the models are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class AdapterLoad:
    """What one replica reports about one adapter.

    `wanted` is the version that it should have, `version` the one that it has, or None. `error` says why
    loading failed, if it did. `num_tokens` is as in `ReplicaLoad`.
    """

    wanted: str
    version: str | None
    error: str
    num_running: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica reports about itself.

    `num_tokens` counts the tokens generated since the replica started, and `time_s` is its own clock. Two
    reports of one replica therefore give a rate, however late they arrive. `cache_use` and `cache_kept` are
    between 0 and 1; they and `num_cached_tokens` are as in `EngineStats`, and 0 if the engine does not tell.
    `adapters` is by name; the load of a model that is an adapter contains only its own.
    """

    replica: str
    time_s: float
    num_running: int
    num_waiting: int
    num_tokens: int
    cache_use: float
    adapters: Mapping[str, AdapterLoad] = field(default_factory=dict)
    cache_kept: float = 0.0
    num_cached_tokens: int = 0

    def of_adapter(self, name: str) -> ReplicaLoad:
        """The part of one adapter. What is known of the whole replica only, such as `cache_use`, stays."""
        adapter = self.adapters.get(name)
        return replace(
            self,
            num_running=adapter.num_running if adapter else 0,
            num_waiting=0,
            num_tokens=adapter.num_tokens if adapter else 0,
            adapters={name: adapter} if adapter else {},
        )


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The sum over a model's replicas. `num_queued` counts the calls that no engine works on yet."""

    num_running: int
    num_queued: int
    num_tokens: int
    replicas: tuple[ReplicaLoad, ...]

    def of_adapter(self, name: str, num_open: int) -> ModelLoad:
        """The part of one adapter; `num_open` is the number of its calls that the routers have open."""
        replicas = tuple(replica.of_adapter(name) for replica in self.replicas)
        num_running = sum(replica.num_running for replica in replicas)
        num_tokens = sum(replica.num_tokens for replica in replicas)
        return ModelLoad(num_running, max(0, num_open - num_running), num_tokens, replicas)
