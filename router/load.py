"""The router's third port: how busy the models are at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class AdapterLoad:
    """What one replica says of one adapter: which version it is to have and which it has, None being none.

    `error`: why the two differ, where it was tried. `num_tokens` as in `ReplicaLoad`.
    """

    wanted: str
    version: str | None
    error: str
    num_running: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica says of itself.

    `num_tokens` counts what it has written since it started, `time_s` is its own clock, in seconds: two looks
    at the same replica give a rate, whoever passed them on and however late. `cache_use` is a fraction.
    `adapters` by name; the load of a model that is one of them has that one alone.
    """

    replica: str
    time_s: float
    num_running: int
    num_waiting: int
    num_tokens: int
    cache_use: float
    adapters: Mapping[str, AdapterLoad] = field(default_factory=dict)

    def of_adapter(self, name: str) -> ReplicaLoad:
        """The part of one adapter; what is not told apart counts for all of them."""
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
    """The sum over a model's replicas. `num_queued`: calls that no engine works on yet, wherever they are."""

    num_running: int
    num_queued: int
    num_tokens: int
    replicas: tuple[ReplicaLoad, ...]

    def of_adapter(self, name: str, num_open: int) -> ModelLoad:
        """The part of one adapter, of which routers have so many calls under way."""
        replicas = tuple(one.of_adapter(name) for one in self.replicas)
        num_running = sum(one.num_running for one in replicas)
        num_tokens = sum(one.num_tokens for one in replicas)
        return ModelLoad(num_running, max(0, num_open - num_running), num_tokens, replicas)
