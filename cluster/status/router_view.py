"""What the router reports about the models: which of them answer, and how busy they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from cluster.own_api_key import KEY_VARIABLE, authorization
from router.load_report import ModelLoad, ReplicaLoad
from router.table import META

TIMEOUT_S = 5.0
META_STATES = {"ok": "ready", "failed": "failed"}  # by the router's status; any other: it does not answer

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RouterView:
    """State and load of each model, by its name in the route table. `note` says why they are missing.

    `ejected`: why the router avoids replicas, by model and replica.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, ModelLoad | None] = field(default_factory=dict)
    note: str = ""
    ejected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def with_sum(self, name: str, parts: Sequence[str]) -> RouterView:
        """With `name` for `parts` together, which share their replicas; its load is the sum of theirs.

        Unchanged if the load of one of them is not known.
        """
        loads = [load for part in parts if (load := self.loads.get(part)) is not None]
        if not loads or len(loads) < len(parts):
            return self
        ejected = {**self.ejected, name: self.ejected.get(parts[0], {})}
        return replace(self, loads={**self.loads, name: _sum(loads)}, ejected=ejected)


def fetch_router_view(url: str) -> RouterView:
    """Ask the router at `url` for states and loads. Raises nothing: a failure becomes the note."""
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
            health, stats = client.get("/healthz"), client.get("/stats", headers=authorization())
    except (httpx.RequestError, httpx.InvalidURL) as error:
        return RouterView(note=f"no router answers at {url} ({str(error) or type(error).__name__})")
    notes: list[str] = []
    found, loads = _parse(_Health, health, notes), _parse(_Stats, stats, notes)
    states = (
        {META: META_STATES.get(found.status, "masked"), **found.experts, **found.embedders} if found else {}
    )
    note = "; ".join(notes)
    return RouterView(states, loads.models, note, loads.ejected) if loads else RouterView(states, note=note)


def tokens_per_s(before: ModelLoad | None, now: ModelLoad | None) -> float | None:
    """The rate between two loads of a model, over the replicas that are in both; None if it is unknown.

    Each replica's tokens are divided by the time that passed on its own clock.
    """
    if before is None or now is None:
        return None
    if not now.replicas:
        return 0.0
    earlier = {replica.replica: replica for replica in before.replicas}
    rates = []
    for replica in now.replicas:
        previous = earlier.get(replica.replica)
        # The same load again, or a restarted engine, has no rate.
        if previous and replica.time_s > previous.time_s and replica.num_tokens >= previous.num_tokens:
            rates.append((replica.num_tokens - previous.num_tokens) / (replica.time_s - previous.time_s))
    return sum(rates) if rates else None


def _sum(loads: Sequence[ModelLoad]) -> ModelLoad:
    """The sum over models that share their replicas."""
    replicas: dict[str, ReplicaLoad] = {}
    for replica in (replica for load in loads for replica in load.replicas):
        known = replicas.get(replica.replica)
        num_tokens = replica.num_tokens + (known.num_tokens if known else 0)
        replicas[replica.replica] = replace(replica, num_tokens=num_tokens)
    return ModelLoad(
        num_running=sum(load.num_running for load in loads),
        num_queued=sum(load.num_queued for load in loads),
        num_tokens=sum(load.num_tokens for load in loads),
        replicas=tuple(replicas.values()),
    )


def _parse(kind: type[T], response: httpx.Response, notes: list[str]) -> T | None:
    """The body, whatever its status: the router answers 503 while its meta is unavailable."""
    if response.status_code == httpx.codes.UNAUTHORIZED:
        problem = "does not know the API key in" if authorization() else "requires an API key: set"
        notes.append(f"the router {problem} {KEY_VARIABLE}")
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
    embedders: dict[str, str] = {}


class _Stats(BaseModel):
    models: dict[str, ModelLoad | None]
    ejected: dict[str, dict[str, str]] = {}  # the router of an earlier release does not tell
