"""Make a running cluster what cluster.yaml says, and wait until it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from cluster.config import ClusterConfig
from cluster.errors import ApplyTimeout, ConfigError, DeployFailed, ServeUnreachable
from cluster.events import ANSWERS, AppEvent, OnEvent
from cluster.hosts import host_of, is_loopback, serving_url
from cluster.serve_client import ServeClient
from cluster.serve_config import META_APP, ROUTER_APP, build_serve_config, expert_app
from cluster.session import until
from cluster.status import AppStatus, app_statuses

FAILED = "DEPLOY_FAILED"
RUNNING = "RUNNING"


def apply(
    config: ClusterConfig,
    client: ServeClient,
    on_event: OnEvent = lambda event: None,
    *,
    timeout_s: float = 600.0,
    poll_s: float = 1.0,
) -> str:
    """Converge the cluster behind `client`, and return its URL once it answers.

    Applying the same config again restarts and changes nothing. Interrupting it is safe: Serve goes on, and
    the next apply waits for the rest. Applications that cluster.yaml does not name are deleted.

    Raises:
        ConfigError: before anything is touched.
        DeployFailed: applications failed; all others serve, if the meta and the router are among them.
        ApplyTimeout: not there yet.
        ServeUnreachable, ServeRefused.
    """
    deploy = _plan(config, client)
    client.put(deploy)
    progress = _Progress(client, deploy, on_event)
    if not until(progress.settled, timeout_s, poll_s):
        raise ApplyTimeout(f"not running after {timeout_s:g} s: {progress.pending()}; see `etr status`")
    url = serving_url(config.http.host, config.http.port, client.address)
    if not progress.failed.keys() & {META_APP, ROUTER_APP}:
        opening = _Opening(url, deploy, set(progress.failed), on_event)
        if not until(opening.done, timeout_s, poll_s):
            raise ApplyTimeout(f"{url} does not answer for all after {timeout_s:g} s: {opening.last_seen}")
    if progress.failed:
        remedy = "correct cluster.yaml or what it names and apply again"
        raise DeployFailed(
            "\n".join(f"{app}: {why}; {remedy}" for app, why in sorted(progress.failed.items()))
        )
    return url


def _require_reachable(config: ClusterConfig, address: str) -> None:
    """A proxy that listens on the loopback of another machine answers nobody here."""
    dashboard, host = host_of(address), config.http.host
    if dashboard and is_loopback(host) and not is_loopback(dashboard):
        raise ConfigError(
            [
                f"{config.source}: http.host: {host} on {dashboard} cannot be reached from here; "
                "use 0.0.0.0 or that node's address"
            ]
        )


def _plan(config: ClusterConfig, client: ServeClient) -> dict[str, Any]:
    _require_reachable(config, client.address)
    running = client.details()
    _require_same_http(config, running)
    deploy = build_serve_config(config)
    _set_epoch(deploy, _next_epoch(deploy, running))
    return deploy


def _require_same_http(config: ClusterConfig, running: dict[str, Any]) -> None:
    """Serve keeps the address it started with and only logs that it ignores another."""
    now = running.get("http_options") or {}
    for key, wanted in (("host", config.http.host), ("port", config.http.port)):
        if now.get(key, wanted) != wanted:
            raise ConfigError(
                [
                    f"{config.source}: http.{key}: Serve already listens on {now[key]!r} and cannot move; "
                    "run `etr down` and `etr up`"
                ]
            )


def _next_epoch(deploy: dict[str, Any], running: dict[str, Any]) -> int:
    """The running epoch while table and tokens stay as they are, else one more."""
    wanted = dict(_numbered(deploy["applications"]))
    apps = [app.get("deployed_app_config") or {} for app in running["applications"].values()]
    found = dict(_numbered(apps))
    epochs = [int(table["epoch"]) for table in found.values()]
    if not epochs:
        return 1
    same = all(_unnumbered(table) == _unnumbered(found.get(app, {})) for app, table in wanted.items())
    return max(epochs) + (not same or len(set(epochs)) > 1)


def _numbered(apps: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for app in apps:
        for deployment in app.get("deployments", ()):
            user_config = deployment.get("user_config") or {}
            if "epoch" in user_config:
                yield app["name"], user_config


def _unnumbered(user_config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in user_config.items() if key != "epoch"}


def _set_epoch(deploy: dict[str, Any], epoch: int) -> None:
    for _, user_config in _numbered(deploy["applications"]):
        user_config["epoch"] = epoch


class _Progress:
    """Serve's side: until every application of the config is running or has failed."""

    def __init__(self, client: ServeClient, deploy: dict[str, Any], on_event: OnEvent) -> None:
        self.failed: dict[str, str] = {}
        self._client = client
        self._on_event = on_event
        self._wanted = [app["name"] for app in deploy["applications"]]
        self._seen: dict[str, AppStatus] = {}

    def settled(self) -> bool:
        try:
            statuses = app_statuses(self._client.details())
        except ServeUnreachable:  # a busy dashboard; the wait as a whole has its limit
            return False
        for app in statuses:
            before = self._seen.get(app.name)
            if before is None or (before.status, before.message) != (app.status, app.message):
                self._on_event(AppEvent(app.name, app.status, app.message))
        self._seen = {app.name: app for app in statuses}
        self.failed = {
            app.name: app.message for app in statuses if app.status == FAILED and app.name in self._wanted
        }
        return not self._late()

    def pending(self) -> str:
        late = {app: self._seen.get(app) for app in self._late()}
        return "; ".join(f"{app}: {f'{s.status} {s.message}' if s else 'unknown'}" for app, s in late.items())

    def _late(self) -> list[str]:
        done = {app for app, now in self._seen.items() if now.status in (RUNNING, FAILED)}
        return [app for app in self._wanted if app not in done]


@dataclass
class _Opening:
    """The router's side: until it works with the new table and every model has answered it a question."""

    url: str
    deploy: dict[str, Any]
    failed: set[str]
    on_event: OnEvent
    last_seen: str = "nothing"
    _answered: set[str] = field(default_factory=set)

    def done(self) -> bool:
        try:
            health = httpx.get(f"{self.url}/healthz", timeout=10.0, trust_env=False)
            picture = health.json()
        except (httpx.TransportError, ValueError) as error:
            self.last_seen = str(error) or type(error).__name__
            return False
        self.last_seen = f"{health.status_code} {health.text[:500]}"
        wanted = dict(_numbered(self.deploy["applications"]))[ROUTER_APP]
        if not health.is_success or picture.get("epoch") != wanted["epoch"]:
            return False
        states = picture.get("experts", {})
        answering = {expert_app(name) for name, state in states.items() if state in ("ready", "asleep")}
        for app in sorted(answering | {META_APP}):
            self._report(app)
        missing = {expert_app(name) for name in wanted["experts"]} - answering - self.failed
        return not missing and self._lists_models()

    def _lists_models(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/models", timeout=10.0, trust_env=False).is_success
        except httpx.TransportError as error:
            self.last_seen = str(error) or type(error).__name__
            return False

    def _report(self, app: str) -> None:
        if app not in self._answered:
            self._answered.add(app)
            self.on_event(AppEvent(app, ANSWERS))
