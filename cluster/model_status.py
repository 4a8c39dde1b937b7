"""The state of every model in words that its user knows, from what Serve, the router and Ray say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from cluster.errors import FIX
from cluster.router_view import RouterView, tokens_per_s
from cluster.status import (
    DELETING,
    DEPLOYING,
    FAILED,
    RUNNING,
    UNHEALTHY,
    AppStatus,
    ReplicaStatus,
)

ROUTER = "router"
SEE_LOG = "Serve replaces the replica; why is in its log, on its node under session_latest/logs/serve"
MAKE_ROOM = "add a node that has it, or change the resources in cluster.yaml and apply again"


class ModelState(StrEnum):
    READY = "ready"  # it answers
    STARTING = "starting"
    ASLEEP = "asleep"  # scaled to zero: a call starts it
    WAKING = "waking"
    MASKED = "masked"  # it runs, but does not answer the router, which calls it no more
    FAILED = "failed"
    STOPPING = "stopping"
    UNSCHEDULED = "unscheduled"  # no node has room for it


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `etr status`, and one entry of its JSON, whose keys are these names.

    `name` is the expert's, `meta` or `router`; `app` the Serve application. `num_running` and `num_queued`
    count calls, `tokens_per_s` is the rate since the last look; None is unknown. `error` is the last one,
    `waits_for` what no node offers a replica of it; `remedy` is for the error, else for that. Empty: none.
    `pool`: the one that the expert is an adapter in, whose line has the replicas; `num_ready` are those that
    have the adapter.
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


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """`time_s` is seconds since 1970, `url` where clients ask, `notes` what could not be found out."""

    time_s: float
    url: str
    models: tuple[ModelStatus, ...]
    notes: tuple[str, ...]


def model_status(
    name: str, app: AppStatus, view: RouterView, before: RouterView, waits_for: str
) -> ModelStatus:
    """`view` is the router's now, `before` the one that rates are counted from."""
    load = view.loads.get(name)
    return ModelStatus(
        name=name,
        app=app.name,
        state=_state(app, view.states.get(name), waits_for),
        num_wanted=app.num_wanted,
        num_ready=app.num_running,
        num_running=load.num_running if load else None,
        num_queued=load.num_queued if load else None,
        tokens_per_s=tokens_per_s(before.loads.get(name), load),
        error=app.error,
        waits_for=waits_for,
        remedy=remedy_for_error(app.error) if app.error else MAKE_ROOM if waits_for else "",
        replicas=app.replicas,
    )


def adapter_status(name: str, pool: str, app: AppStatus, view: RouterView, before: RouterView) -> ModelStatus:
    """An expert that is an adapter in the pool, which is `app`."""
    load = view.loads.get(name)
    adapters = [replica.adapters.get(name) for replica in load.replicas] if load else []
    error = next((one.error for one in adapters if one and one.error), "")
    whole = model_status(name, replace(app, error=error), view, before, "")
    num_ready = sum(one is not None and one.version is not None for one in adapters)
    return replace(whole, num_ready=num_ready if load else app.num_running, replicas=(), pool=pool)


def _state(app: AppStatus, word: str | None, waits_for: str) -> ModelState:
    """`word` is the router's, which alone knows whether a model answers; None for what it does not call."""
    if app.status == DELETING:
        return ModelState.STOPPING
    if app.status == FAILED:
        return ModelState.FAILED
    if not app.num_running:
        return _state_without_replicas(app, word, waits_for)
    if word == ModelState.MASKED and app.status == DEPLOYING:
        return ModelState.STARTING
    # Serve knows already of a replica that the router has yet to notice.
    return ModelState.READY if word in (None, ModelState.ASLEEP) else ModelState(word)


def _state_without_replicas(app: AppStatus, word: str | None, waits_for: str) -> ModelState:
    if waits_for:
        return ModelState.UNSCHEDULED
    if app.status == UNHEALTHY and not any(replica.state == "STARTING" for replica in app.replicas):
        return ModelState.FAILED
    if app.status == RUNNING and not app.num_wanted:
        return ModelState.WAKING if word == ModelState.WAKING else ModelState.ASLEEP
    sleeps = word in (ModelState.ASLEEP, ModelState.WAKING)
    return ModelState.WAKING if sleeps else ModelState.STARTING


def remedy_for_error(error: str) -> str:
    return SEE_LOG if "health check" in error or " died: " in error else FIX
