"""Looks at a whole cluster: Serve, the router, and the nodes where a replica waits for a place."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cluster.app_name import pool_of
from cluster.cluster_nodes import Node, cluster_nodes
from cluster.deaths import last_death
from cluster.demand import demands
from cluster.epoch import deployed, tables
from cluster.errors import ServeError
from cluster.model_status import ROUTER, ClusterStatus, ModelStatus, adapter_status, model_status
from cluster.router_view import RouterView, look
from cluster.serve_client import ServeClient
from cluster.status import DEPLOYING, AppStatus, app_statuses
from cluster.target import url_of
from cluster.unscheduled import why_waiting
from router.table import META

# Looks that are closer together may be given the same answer by the router.
LOOK_GAP_S = 1.2
HEALTH_CHECK = "health check failed"


class Watch:
    """Rates are between a look and the one before; the first look has none."""

    def __init__(self, client: ServeClient, url: str | None = None) -> None:
        """`url` is where the router answers; by default, where Serve says that it listens."""
        self._client = client
        self._url = url
        self._before = RouterView()

    def look(self) -> ClusterStatus:
        """Raises ServeUnreachable, ServeRefused."""
        details = self._client.details()
        url = self._url or url_of(details, self._client.address)
        apps = [self._told_fully(app, details) for app in app_statuses(details)]
        view = look(url) if apps else RouterView()
        reasons, notes = self._reasons(details, apps)
        names = _names(details)
        models = [one for app in apps for one in self._statuses(app, names, view, reasons.get(app.name, ""))]
        self._before = view
        notes = [*filter(None, [view.note]), *notes]
        return ClusterStatus(time.time(), url, tuple(sorted(models, key=_place)), tuple(notes))

    def _statuses(
        self, app: AppStatus, names: Mapping[str, Sequence[str]], view: RouterView, waits_for: str
    ) -> Iterator[ModelStatus]:
        """A pool has a line of its own, and one for each of its experts."""
        found, pool = names.get(app.name, ()), pool_of(app.name)
        if pool is None:
            yield model_status(found[0] if found else app.name, app, view, self._before, waits_for)
            return
        before = self._before.with_sum(pool, found)
        yield model_status(pool, app, view.with_sum(pool, found), before, waits_for)
        for name in found:
            yield adapter_status(name, pool, app, view, self._before)

    def _told_fully(self, app: AppStatus, details: Mapping[str, Any]) -> AppStatus:
        if HEALTH_CHECK not in app.error:
            return app
        with suppress(ServeError):  # then Serve's own words must do
            return replace(
                app, error=last_death(self._client, details["applications"][app.name]) or app.error
            )
        return app

    def _reasons(
        self, details: Mapping[str, Any], apps: Sequence[AppStatus]
    ) -> tuple[dict[str, str], list[str]]:
        """Why replicas wait, by application; and a note where that is not known."""
        waiting = [app for app in apps if _waits(app)]
        if not waiting:
            return {}, []
        try:
            nodes = cluster_nodes(self._client)
        except ServeError as error:
            return {}, [f"what the nodes offer is not known: {error}"]
        return {app.name: _reason(details["applications"][app.name], app, nodes) for app in waiting}, []


def _waits(app: AppStatus) -> bool:
    is_built = app.num_wanted or app.replicas or app.status != DEPLOYING
    return not is_built or any(replica.waits_for_a_place for replica in app.replicas)


def _reason(details: Mapping[str, Any], app: AppStatus, nodes: Sequence[Node]) -> str:
    reasons = (why_waiting(demand, nodes, app.num_by_node) for demand in demands(details))
    return next(filter(None, reasons), "")


def _names(details: dict[str, Any]) -> dict[str, list[str]]:
    """The models' names by application, out of the route table; only a pool has several, or none."""
    # An application that a failed apply left behind is in Serve but not in the table: it keeps its own name.
    for table in tables(deployed(details).values()).values():
        if "experts" in table:
            names = {table["meta"]["app"]: [META]}
            for name, entry in table["experts"].items():
                names.setdefault(entry["app"], []).append(name)
            return names
    return {}


def _place(model: ModelStatus) -> tuple[int, str, str]:
    """The order of the answer's way: router, meta, experts, each pool before its own; last what is not of
    this cluster."""
    fixed = [ROUTER, META]
    if model.name in fixed:
        return fixed.index(model.name), "", ""
    if pool := pool_of(model.app):
        return 3, pool, model.name if model.pool else ""
    return (2 if model.name != model.app else 4), model.name, ""
