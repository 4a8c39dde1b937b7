"""The state of every model, combined from what Serve, the router and Ray report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.errors import FAILED_APP_REMEDY
from cluster.serve.app_status import AppStatus, ReplicaStatus
from cluster.serve.serve_details import DELETING, DEPLOYING, FAILED, RUNNING, STARTING, UNHEALTHY
from cluster.status.router_view import RouterView, tokens_per_s

SEE_LOG = "Serve replaces the replica; its log, on its node in session_latest/logs/serve, has the reason"
NO_ANSWER = "none of its replicas can answer, whatever it is asked"
MAKE_ROOM = "add a node that has it, or change the resources in cluster.yaml and apply again"


class ModelState(StrEnum):
    READY = "ready"  # it answers
    STARTING = "starting"
    ASLEEP = "asleep"  # scaled to zero: a call starts it
    WAKING = "waking"
    UNAVAILABLE = "unavailable"  # it has answered, and none of its replicas does now
    MASKED = "masked"  # it runs, but does not answer the router, which does not call it
    FAILED = "failed"
    STOPPING = "stopping"
    UNSCHEDULED = "unscheduled"  # no node has room for it


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `etr status`, and one entry of its JSON, which has these names as keys.

    Attributes:
        name: the expert's name, `meta` or `router`.
        app: the Serve application.
        num_wanted: replicas that Serve wants.
        num_ready: replicas that run; of an adapter, replicas that have loaded it.
        num_running: calls that run; None if unknown.
        num_queued: calls that wait; None if unknown.
        tokens_per_s: the rate since the previous status; None if unknown.
        error: the last error, or empty.
        waits_for: what a replica needs and no node has free, or empty.
        remedy: what to do about `error`, or else about `waits_for`.
        replicas: every replica; empty for an adapter, whose pool has them.
        pool: the pool that the expert is an adapter in, or empty.
        ejected: why the router that answered avoids replicas, by replica; empty for an adapter.
    """

    name: str
    app: str
    state: ModelState
    num_wanted: int
    num_ready: int
    num_running: int | None
    num_queued: int | None
    tokens_per_s: float | None
    error: str
    waits_for: str
    remedy: str
    replicas: tuple[ReplicaStatus, ...]
    pool: str = ""
    ejected: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """`time_s`: seconds since 1970. `url`: where clients send requests. `notes`: what is unknown, and why."""

    time_s: float
    url: str
    models: tuple[ModelStatus, ...]
    notes: tuple[str, ...]


def model_status(
    name: str, app: AppStatus, view: RouterView, before: RouterView, waits_for: str
) -> ModelStatus:
    """`view` is the router's now, `before` the one at the start of the time that rates are for."""
    load, word = view.loads.get(name), view.states.get(name)
    error = app.error or (NO_ANSWER if word == ModelState.FAILED else "")
    return ModelStatus(
        name=name,
        app=app.name,
        state=_state(app, word, waits_for),
        num_wanted=app.num_wanted,
        num_ready=app.num_running,
        num_running=load.num_running if load else None,
        num_queued=load.num_queued if load else None,
        tokens_per_s=tokens_per_s(before.loads.get(name), load),
        error=error,
        waits_for=waits_for,
        remedy=remedy_for_error(error) if error else MAKE_ROOM if waits_for else "",
        replicas=app.replicas,
        ejected=view.ejected.get(name, {}),
    )


def adapter_status(name: str, pool: str, app: AppStatus, view: RouterView, before: RouterView) -> ModelStatus:
    """An expert that is an adapter in a pool; `app` is the pool's application."""
    load = view.loads.get(name)
    adapters = [replica.adapters.get(name) for replica in load.replicas] if load else []
    error = next((adapter.error for adapter in adapters if adapter and adapter.error), "")
    whole = model_status(name, replace(app, error=error), view, before, "")
    num_ready = sum(adapter is not None and adapter.version is not None for adapter in adapters)
    num_ready = num_ready if load else app.num_running
    return replace(whole, num_ready=num_ready, replicas=(), pool=pool, ejected={})


def _state(app: AppStatus, word: str | None, waits_for: str) -> ModelState:
    """`word` is the router's state of the model, None if it does not call it. Only the router knows whether a
    model answers."""
    if app.status == DELETING:
        return ModelState.STOPPING
    if app.status == FAILED:
        return ModelState.FAILED
    if word == ModelState.FAILED:
        return ModelState.FAILED
    if not app.num_running:
        return _state_without_replicas(app, word, waits_for)
    if word == ModelState.MASKED and app.status == DEPLOYING:
        return ModelState.STARTING
    # If it is asleep for the router, Serve runs a replica that the router has not noticed yet.
    return ModelState.READY if word in (None, ModelState.ASLEEP) else ModelState(word)


def _state_without_replicas(app: AppStatus, word: str | None, waits_for: str) -> ModelState:
    if waits_for:
        return ModelState.UNSCHEDULED
    if app.status == UNHEALTHY and not any(replica.state == STARTING for replica in app.replicas):
        return ModelState.FAILED
    if app.status == RUNNING and not app.num_wanted:
        return ModelState.WAKING if word == ModelState.WAKING else ModelState.ASLEEP
    sleeps = word in (ModelState.ASLEEP, ModelState.WAKING)
    return ModelState.WAKING if sleeps else ModelState.STARTING


def remedy_for_error(error: str) -> str:
    is_logged = error == NO_ANSWER or "health check" in error or " died: " in error
    return SEE_LOG if is_logged else FAILED_APP_REMEDY
