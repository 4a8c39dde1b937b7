"""The router's third port: how busy the models are at the moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica says of itself.

    `num_tokens` counts what it has written since it started, `time_s` is its own clock, in seconds: two looks
    at the same replica give a rate, whoever passed them on and however late. `cache_use` is a fraction.
    """

    replica: str
    time_s: float
    num_running: int
    num_waiting: int
    num_tokens: int
    cache_use: float


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The sum over a model's replicas. `num_queued`: calls that no engine works on yet, wherever they are."""

    num_running: int
    num_queued: int
    num_tokens: int
    replicas: tuple[ReplicaLoad, ...]
