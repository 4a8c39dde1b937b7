"""Collects the status of a cluster from Serve, the router and, while a replica waits for one, the nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from cluster.errors import ServeError
from cluster.serve.app_names import META_APP, ROUTER_APP, pool_of
from cluster.serve.app_status import AppStatus, app_statuses
from cluster.serve.client import ServeClient
from cluster.serve.connect import url_of
from cluster.serve.serve_details import DEPLOYING, AppDetails, ServeDetails, versioned_configs
from cluster.status.model_status import ClusterStatus, ModelStatus, adapter_status, model_status
from cluster.status.nodes import Node, cluster_nodes
from cluster.status.replica_deaths import last_death
from cluster.status.resource_demand import demands
from cluster.status.router_view import RouterView, fetch_router_view
from cluster.status.unschedulable import why_waiting
from router.table import META

MIN_PERIOD_S = 1.2  # the router answers requests that are closer together from one reading
HEALTH_CHECK = "health check failed"


class StatusCollector:
    """Collects the status of a cluster repeatedly; rates are since the previous time."""

    def __init__(self, client: ServeClient, url: str | None = None) -> None:
        """`url`: where the router answers; None: where Serve says that it listens."""
        self._client = client
        self._url = url
        self._before = RouterView()

    def collect(self) -> ClusterStatus:
        """The status now; the first has no rates.

        Raises:
            ServeUnreachable, ServeRefused.
        """
        details = self._client.details()
        url = self._url or url_of(details, self._client.address)
        apps = [self._with_death(app, details) for app in app_statuses(details)]
        view = fetch_router_view(url) if apps else RouterView()
        reasons, notes = self._reasons(details, apps)
        names = _model_names(details)
        models = [
            model for app in apps for model in self._models(app, names, view, reasons.get(app.name, ""))
        ]
        self._before = view
        notes = [*filter(None, [view.note]), *notes]
        return ClusterStatus(time.time(), url, tuple(sorted(models, key=_sort_key)), tuple(notes))

    def _models(
        self, app: AppStatus, names: Mapping[str, Sequence[str]], view: RouterView, waits_for: str
    ) -> Iterator[ModelStatus]:
        """The application's model; of a pool, the pool and then each of its experts, and so of the meta."""
        found, pool = names.get(app.name, ()), pool_of(app.name)
        if pool is None:
            yield model_status(found[0] if found else app.name, app, view, self._before, waits_for)
            for name in found[1:]:
                yield adapter_status(name, META, app, view, self._before)
            return
        before = self._before.with_sum(pool, found)
        yield model_status(pool, app, view.with_sum(pool, found), before, waits_for)
        for name in found:
            yield adapter_status(name, pool, app, view, self._before)

    def _with_death(self, app: AppStatus, details: ServeDetails) -> AppStatus:
        """If a health check failed, with Ray's account of the replica's death, if it has one."""
        if HEALTH_CHECK not in app.error:
            return app
        with suppress(ServeError):
            return replace(app, error=last_death(self._client, details.applications[app.name]) or app.error)
        return app

    def _reasons(self, details: ServeDetails, apps: Sequence[AppStatus]) -> tuple[dict[str, str], list[str]]:
        """Why replicas wait, by application; and a note if that cannot be found out."""
        waiting = [app for app in apps if _waits(app)]
        if not waiting:
            return {}, []
        try:
            nodes = cluster_nodes(self._client)
        except ServeError as error:
            return {}, [f"what the nodes offer is not known: {error}"]
        return {app.name: _reason(details.applications[app.name], app, nodes) for app in waiting}, []


def _waits(app: AppStatus) -> bool:
    is_built = app.num_wanted or app.replicas or app.status != DEPLOYING
    return not is_built or any(replica.waits_for_node for replica in app.replicas)


def _reason(details: AppDetails, app: AppStatus, nodes: Sequence[Node]) -> str:
    reasons = (why_waiting(demand, nodes, app.num_by_node) for demand in demands(details))
    return next(filter(None, reasons), "")


def _model_names(details: ServeDetails) -> dict[str, list[str]]:
    """The names of the models by application, from the route table. A pool may have several, or none, and
    the meta those of experts in place after its own.

    An application that a failed apply left behind is not in the table.
    """
    for table in versioned_configs(details.deployed.values()).values():
        if "experts" in table:
            names = {table["meta"]["app"]: [META]}
            for name, entry in {**table["experts"], **table.get("embedders", {})}.items():
                names.setdefault(entry["app"], []).append(name)
            return names
    return {}


def _sort_key(model: ModelStatus) -> tuple[int, str, str]:
    """Router, meta, experts, pools (each before its experts), and last what is not of this cluster."""
    if model.app == ROUTER_APP:
        return 0, "", ""
    if model.app == META_APP:
        return 1, "", model.name if model.pool else ""
    if pool := pool_of(model.app):
        return 3, pool, model.name if model.pool else ""
    return (2 if model.name != model.app else 4), model.name, ""
