"""How far Serve is with a change: which applications run, have failed or are gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cluster.errors import ApplySuperseded, ServeUnreachable
from cluster.serve.app_status import STOPPED, AppEvent, AppStatus, OnEvent, app_statuses
from cluster.serve.client import ServeClient
from cluster.serve.serve_details import FAILED, RUNNING, DeployConfig, ServeDetails, versioned_configs


class Progress:
    """Polls Serve, and reports every change of an application's status once.

    `failed`: why, for each application that was put and failed.
    """

    def __init__(self, client: ServeClient, on_event: OnEvent) -> None:
        self.failed: dict[str, str] = {}
        self._client = client
        self._on_event = on_event
        self._num_wanted: dict[str, int] = {}
        self._tables: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, AppStatus] = {}

    def put(self, deploy: dict[str, Any], made_from: Mapping[str, DeployConfig]) -> None:
        """Make Serve run `deploy`, and measure progress by it from now on.

        `made_from`: the configs, by application, that must still run. Serve has no conditional PUT, so they
        are read right before it.

        Raises:
            ApplySuperseded: other configs run in the meantime; nothing was changed.
            ServeUnreachable, ServeRefused.
        """
        if self._client.details().deployed != made_from:
            raise ApplySuperseded(
                "another `etr apply` has changed this cluster since this one was planned; run `etr plan`, "
                "and apply again if your file should still take effect"
            )
        self._num_wanted = {app["name"]: _num_replicas(app) for app in deploy["applications"]}
        self._tables = versioned_configs(deploy["applications"])
        self.failed = {}
        self._client.put(deploy)

    def settled(self, apps: Collection[str] | None = None) -> bool:
        """Whether these applications (None: all) run with the replicas they must have, or have failed.

        Raises:
            ApplySuperseded: another `etr apply` has put another route table.
        """
        return self._poll() and not self._pending(self._num_wanted if apps is None else apps)

    def gone(self, apps: Collection[str]) -> bool:
        """Whether Serve has none of these applications any more."""
        return self._poll() and not any(app in self._seen for app in apps)

    def pending(self) -> str:
        """The applications that do not run yet, each with Serve's word for its state."""
        return "; ".join(f"{app}: {self._state(app)}" for app in self._pending(self._num_wanted))

    def _state(self, app: str) -> str:
        seen = self._seen.get(app)
        return f"{seen.status} {seen.message}" if seen else "unknown"

    def _poll(self) -> bool:
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
            if app.status == FAILED and name in self._num_wanted
        }
        return True

    def _require_ours(self, details: ServeDetails) -> None:
        for app, table in versioned_configs(details.deployed.values()).items():
            if app in self._tables and table != self._tables[app]:
                raise ApplySuperseded(
                    "another `etr apply` has changed this cluster meanwhile (its route table has version "
                    f"{table['table_version']}); run `etr plan`, and apply again if your file should still "
                    "take effect"
                )

    def _pending(self, apps: Collection[str]) -> list[str]:
        return [app for app in apps if app not in self.failed and not self._runs(app)]

    def _runs(self, app: str) -> bool:
        seen = self._seen.get(app)
        return seen is not None and seen.status == RUNNING and seen.num_running >= self._num_wanted[app]


def _num_replicas(app: DeployConfig) -> int:
    """The minimum that must run; load adds more."""
    scaling = (deployment.get("autoscaling_config") or {} for deployment in app.get("deployments", ()))
    return sum(config.get("min_replicas", 1) for config in scaling)
