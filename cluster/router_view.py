"""What the router says of the models: which of them answer, and how busy they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from cluster.api_key import KEY_VARIABLE, authorization
from router.load import ModelLoad, ReplicaLoad
from router.table import META

TIMEOUT_S = 5.0
OK = "ok"

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RouterView:
    """State and load of each model, by its name in the route table; where they lack, `note` says why."""

    states: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, ModelLoad | None] = field(default_factory=dict)
    note: str = ""

    def with_sum(self, name: str, parts: Sequence[str]) -> RouterView:
        """The view with one more load: that of all `parts`, where each of them is known."""
        loads = [load for part in parts if (load := self.loads.get(part)) is not None]
        if not loads or len(loads) < len(parts):
            return self
        return replace(self, loads={**self.loads, name: _sum(loads)})


def look(url: str) -> RouterView:
    """One look at the router. What is wrong with it becomes a note: of all else Serve knows enough."""
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
            health, stats = client.get("/healthz"), client.get("/stats", headers=authorization())
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return RouterView(note=f"no router answers at {url} ({str(error) or type(error).__name__})")
    notes: list[str] = []
    picture, load = _read(_Health, health, notes), _read(_Stats, stats, notes)
    states = {META: "ready" if picture.status == OK else "masked", **picture.experts} if picture else {}
    return RouterView(states, load.models if load else {}, "; ".join(notes))


def tokens_per_s(before: ModelLoad | None, now: ModelLoad | None) -> float | None:
    """The rate between two looks, of the replicas that were there both times; None where nobody knows it.

    Each replica's tokens are divided by the time that passed on its own clock.
    """
    if before is None or now is None:
        return None
    if not now.replicas:
        return 0.0
    earlier = {replica.replica: replica for replica in before.replicas}
    rates = []
    for replica in now.replicas:
        then = earlier.get(replica.replica)
        # The same look again, or an engine that was started anew, gives no rate.
        if then and replica.time_s > then.time_s and replica.num_tokens >= then.num_tokens:
            rates.append((replica.num_tokens - then.num_tokens) / (replica.time_s - then.time_s))
    return sum(rates) if rates else None


def _sum(loads: Sequence[ModelLoad]) -> ModelLoad:
    """Of models that share their replicas, each of which has its own part of what it does."""
    replicas: dict[str, ReplicaLoad] = {}
    for one in (replica for load in loads for replica in load.replicas):
        before = replicas.get(one.replica)
        replicas[one.replica] = replace(one, num_tokens=one.num_tokens + (before.num_tokens if before else 0))
    return ModelLoad(
        num_running=sum(load.num_running for load in loads),
        num_queued=sum(load.num_queued for load in loads),
        num_tokens=sum(load.num_tokens for load in loads),
        replicas=tuple(replicas.values()),
    )


def _read(kind: type[T], response: httpx.Response, notes: list[str]) -> T | None:
    """A body with a status other than 200 may say it all: the router is there, and its meta is not."""
    if response.status_code == httpx.codes.UNAUTHORIZED:
        known = "does not know the API key in" if authorization() else "asks for an API key: set"
        notes.append(f"the router {known} {KEY_VARIABLE}")
        return None
    try:
        return kind.model_validate_json(response.content)
    except ValidationError:
        url = response.url
        notes.append(f"the router at {url.host}:{url.port} answers {response.status_code} to {url.path}")
        return None


class _Health(BaseModel):
    status: str
    experts: dict[str, str]


class _Stats(BaseModel):
    models: dict[str, ModelLoad | None]
