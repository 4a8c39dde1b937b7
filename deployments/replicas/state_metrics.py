"""The state of models, replicas and queues as one router sees it, as Ray metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ray.serve.metrics import Gauge

from deployments.replicas.replica_set import AdapterReplicas, ReplicaSet, replicas_of
from router.api.gateway import Gateway
from router.availability import ModelState
from router.errors import RouterError

PERIOD_S = 5.0  # Ray forgets a gauge that is not set within two of its exports, ten seconds each
ANSWERS = {ModelState.READY, ModelState.ASLEEP, ModelState.WAKING}

# A metric and the values of its tags.
Series = tuple[str, tuple[str, ...]]

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "etr_model_up": ("1 if the model answers, or sleeps until it is called; otherwise 0.", ("model",)),
    "etr_replicas": ("Replicas of the model, by state: healthy or ejected.", ("model", "state")),
    "etr_waiting_calls": ("Calls that wait in the router for a slot of the application.", ("queue",)),
    "etr_queue_fill": ("How full the queue is: at 1, further calls are refused.", ("queue",)),
}
OF_REMOVED = {"etr_model_up": 1.0}  # a model that is removed must not seem to be down


class StateMetrics:
    """Sets the gauges of one router replica, whose tag Serve adds."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: set[Series] = set()
        self._gauges = {
            name: Gauge(name, text, tag_keys=tags)  # type: ignore[arg-type]  # Serve annotates a single one
            for name, (text, tags) in METRICS.items()
        }

    async def keep_observing(self) -> None:
        while True:
            await self.observe()
            await asyncio.sleep(PERIOD_S)

    async def observe(self) -> None:
        try:
            now = dict(state_of(self._gateway))
        except RouterError:  # its table is stale: the gauges keep what was true last
            return
        removed = {series: OF_REMOVED.get(series[0], 0.0) for series in self._known - now.keys()}
        self._known = set(now)
        for (name, values), value in (now | removed).items():
            self._gauges[name].set(value, dict(zip(METRICS[name][1], values, strict=True)))
            await asyncio.sleep(0)  # with a thousand experts, requests go on meanwhile


def state_of(
    gateway: Gateway, replicas: Callable[[str], ReplicaSet] = replicas_of
) -> Iterator[tuple[Series, float]]:
    """The present value of each series. `replicas` gives those of an application."""
    table = gateway.table
    for name, entry in table.models.items():
        yield ("etr_model_up", (name,)), float(gateway.state(name) in ANSWERS)
        yield from _replicas(name, replicas(entry.app).for_adapter(entry.adapter))
    yield from _queues(gateway)


def _replicas(name: str, replicas: ReplicaSet | AdapterReplicas) -> Iterator[tuple[Series, float]]:
    yield ("etr_replicas", (name, "healthy")), float(len(replicas.healthy))
    yield ("etr_replicas", (name, "ejected")), float(len(replicas.running) - len(replicas.healthy))


def _queues(gateway: Gateway) -> Iterator[tuple[Series, float]]:
    """The fill is the larger of two shares: of the time that a call may wait, and of the calls that may."""
    table, admission = gateway.table, gateway.admission
    share_of_places = admission.num_waiting / table.limits.max_waiting
    waits_s = admission.longest_waits_s()
    for app, load in admission.load().items():
        yield ("etr_waiting_calls", (app,)), float(load["num_waiting"] or 0)
        yield ("etr_queue_fill", (app,)), max(waits_s[app] / table.deadlines.queue_s, share_of_places)
