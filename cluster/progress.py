"""Serve's side of a change: which applications run, have failed, are gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cluster.epoch import deployed, tables
from cluster.errors import ApplySuperseded, ServeUnreachable
from cluster.events import STOPPED, AppEvent, OnEvent
from cluster.serve_client import ServeClient
from cluster.status import FAILED, RUNNING, AppStatus, app_statuses


class Progress:
    """Looks at Serve, and tells every change of an application's status once.

    `failed`: why, for each application that was put and failed.
    """

    def __init__(self, client: ServeClient, on_event: OnEvent) -> None:
        self.failed: dict[str, str] = {}
        self._client = client
        self._on_event = on_event
        self._wanted: dict[str, int] = {}
        self._tables: dict[str, Any] = {}
        self._seen: dict[str, AppStatus] = {}

    def put(self, deploy: dict[str, Any]) -> None:
        """Make Serve run `deploy`, and measure progress by it from now on.

        Raises:
            ServeUnreachable, ServeRefused.
        """
        self._wanted = {app["name"]: _num_replicas(app) for app in deploy["applications"]}
        self._tables = tables(deploy["applications"])
        self.failed = {}
        self._client.put(deploy)

    def settled(self, apps: Collection[str] | None = None) -> bool:
        """Whether these applications, all by default, run with the replicas they must have, or have failed.

        Raises:
            ApplySuperseded: somebody else has put another table meanwhile.
        """
        return self._look() and not self._late(self._wanted if apps is None else apps)

    def gone(self, apps: Collection[str]) -> bool:
        """Whether Serve has none of these any more."""
        return self._look() and not any(app in self._seen for app in apps)

    def pending(self) -> str:
        """The applications that are not there yet, each with Serve's word for its state."""
        late = {app: self._seen.get(app) for app in self._late(self._wanted)}
        return "; ".join(f"{app}: {f'{s.status} {s.message}' if s else 'unknown'}" for app, s in late.items())

    def _look(self) -> bool:
        try:
            details = self._client.details()
        except ServeUnreachable:  # a busy dashboard; the wait as a whole has its limit
            return False
        self._require_ours(details)
        statuses = {app.name: app for app in app_statuses(details)}
        for name, app in statuses.items():
            before = self._seen.get(name)
            if before is None or (before.status, before.message) != (app.status, app.message):
                self._on_event(AppEvent(name, app.status, app.message))
        for name in self._seen.keys() - statuses:
            self._on_event(AppEvent(name, STOPPED))
        self._seen = statuses
        self.failed = {
            name: app.message
            for name, app in statuses.items()
            if app.status == FAILED and name in self._wanted
        }
        return True

    def _require_ours(self, details: dict[str, Any]) -> None:
        for app, table in tables(deployed(details).values()).items():
            if app in self._tables and table != self._tables[app]:
                raise ApplySuperseded(
                    "another `etr apply` has changed this cluster meanwhile (its table has epoch "
                    f"{table['epoch']}); look at `etr plan`, and apply again if yours is to count"
                )

    def _late(self, apps: Collection[str]) -> list[str]:
        return [app for app in apps if app not in self.failed and not self._runs(app)]

    def _runs(self, app: str) -> bool:
        now = self._seen.get(app)
        if now is None or now.status != RUNNING:
            return False
        return sum(replica.state == RUNNING for replica in now.replicas) >= self._wanted[app]


def _num_replicas(app: Mapping[str, Any]) -> int:
    """How many must be there at the least; more come with the load."""
    scaling = ((one.get("autoscaling_config") or {}) for one in app.get("deployments", ()))
    return sum(one.get("min_replicas", 1) for one in scaling)
