"""What applying a cluster.yaml would change: which applications start, restart, change in place, stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.config import ClusterConfig
from cluster.epoch import deployed, set_epoch
from cluster.errors import ConfigError
from cluster.hosts import host_of, is_loopback
from cluster.serve_client import ServeClient
from cluster.serve_config import build_serve_config
from cluster.status import FAILED, RUNNING

# Serve replaces every replica of an application for these, whichever part of one changes.
RESTARTING = (
    "import_path",
    "args",
    "runtime_env",
    "ray_actor_options",
    "placement_group",
    "max_replicas_per_node",
    "autoscaling_config.policy",
    "request_router_config",
)
_MAX_SHOWN = 40
_INITIAL = "initial_replicas"


class Change(StrEnum):
    START = "start"
    RESTART = "restart"
    UPDATE = "update"  # in place: no replica restarts
    STOP = "stop"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class AppChange:
    """`why`: one short line per difference, as `autoscaling_config.max_replicas: 1 → 3`."""

    app: str
    change: Change
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """`deploy` is what Serve is to run in the end; `changes` has every application, by name.

    `leaving` are the applications that stop, `held` those that stay and of which adapters leave; both as they
    run now.
    """

    deploy: dict[str, Any]
    changes: tuple[AppChange, ...]
    leaving: tuple[dict[str, Any], ...] = ()
    held: tuple[dict[str, Any], ...] = ()
    retried: frozenset[str] = frozenset()

    @property
    def changes_nothing(self) -> bool:
        return all(change.change is Change.KEEP for change in self.changes)

    @property
    def first(self) -> dict[str, Any] | None:
        """What has to run before `deploy` can: nobody is handed to an expert that leaves while it finishes
        what it writes, and an application that failed is gone, or Serve would not try it again."""
        if not self.leaving and not self.held and not self.retried:
            return None
        kept = [app for app in self.deploy["applications"] if app["name"] not in self.retried]
        return {**self.deploy, "applications": replaced(kept, (*self.held, *self.leaving))}


def make_plan(config: ClusterConfig, client: ServeClient) -> Plan:
    """Compare cluster.yaml with what runs behind `client`; nothing is touched.

    Raises:
        ConfigError, ServeUnreachable, ServeRefused.
    """
    _require_reachable(config, client.address)
    running = client.details()
    _require_same_http(config, running)
    return compare(build_serve_config(config), running)


def compare(deploy: dict[str, Any], running: dict[str, Any]) -> Plan:
    """The plan that leads from what Serve says is `running` to `deploy`, whose tables get their epoch."""
    set_epoch(deploy, running)
    now = deployed(running)
    apps = [_as_it_goes_on(app, now.get(app["name"])) for app in deploy["applications"]]
    deploy = {**deploy, "applications": apps}
    wanted = {app["name"]: app for app in deploy["applications"]}
    unchanged = {name for name, app in wanted.items() if now.get(name) == app}
    retried = frozenset(name for name in unchanged if _failed_for_good(running["applications"][name]))
    changes = [_change(name, now.get(name), wanted.get(name), name in retried) for name in {**now, **wanted}]
    leaving = (app for name, app in sorted(now.items()) if name not in wanted)
    held = with_leaving_adapters(deploy["applications"], now)
    ordered = tuple(sorted(changes, key=lambda change: change.app))
    return Plan(deploy, ordered, tuple(leaving), tuple(held), retried)


def with_leaving_adapters(
    wanted: Iterable[dict[str, Any]], now: Mapping[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The applications, as they run `now`, that have adapters which they are to have no longer."""
    for app in wanted:
        running = now.get(app["name"])
        if running is not None and _adapters(running) - _adapters(app):
            yield running


def replaced(apps: Iterable[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`apps` with `others` in place of those of the same names, or behind them."""
    by_name = {app["name"]: app for app in others}
    kept = [by_name.pop(app["name"], app) for app in apps]
    return [*kept, *by_name.values()]


def _as_it_goes_on(app: dict[str, Any], now: dict[str, Any] | None) -> dict[str, Any]:
    """The config of one that runs already has no `initial_replicas`: with any change at all Serve would set
    it back to that number, whatever it has been scaled to since."""
    if now is None:
        return app
    later = _without_initial(app)
    return now if later == _without_initial(now) else later


def _without_initial(app: dict[str, Any]) -> dict[str, Any]:
    deployments = [
        {key: _but(value, _INITIAL) if key == "autoscaling_config" else value for key, value in one.items()}
        for one in app["deployments"]
    ]
    return {**app, "deployments": deployments}


def _but(mapping: Mapping[str, Any], left_out: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != left_out}


def _change(name: str, now: dict[str, Any] | None, wanted: dict[str, Any] | None, retried: bool) -> AppChange:
    if now is None:
        return AppChange(name, Change.START)
    if wanted is None:
        return AppChange(name, Change.STOP)
    if retried:
        return AppChange(name, Change.START, ("it failed and is tried again",))
    differences = list(_differences(_flat(now), _flat(wanted)))
    if not differences:
        return AppChange(name, Change.KEEP)
    restarts = any(key.startswith(RESTARTING) for key, _ in differences)
    return AppChange(
        name, Change.RESTART if restarts else Change.UPDATE, tuple(line for _, line in differences)
    )


def _failed_for_good(app: Mapping[str, Any]) -> bool:
    """Serve takes the same config again as news of nothing. One that has replicas left is not taken away."""
    replicas = [one for deployment in app["deployments"].values() for one in deployment["replicas"]]
    return app["status"] == FAILED and not any(one["state"] == RUNNING for one in replicas)


def _flat(app: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by dotted key. Our applications have one deployment each, whose name need not be said."""
    own = {key: value for key, value in app.items() if key != "deployments"}
    return dict(_leaves("", own)) | {
        key: value for one in app.get("deployments", ()) for key, value in _leaves("", one)
    }


def _leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        yield where, value
        return
    for key, member in value.items():
        yield from _leaves(f"{where}.{key}" if where else str(key), member)


def _adapters(app: Mapping[str, Any]) -> set[str]:
    configs = (one.get("user_config") or {} for one in app.get("deployments", ()))
    return {name for config in configs for name in config.get("adapters") or ()}


def _differences(now: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in sorted({**now, **wanted}):
        label = key.removeprefix("user_config.")
        if label == "epoch":  # it follows from what else is here
            continue
        if key not in now:
            yield key, f"{label}: added{_shown(': ', wanted[key])}"
        elif key not in wanted:
            yield key, f"{label}: removed"
        elif now[key] != wanted[key]:
            old, new = _shown("", now[key]), _shown("", wanted[key])
            yield key, f"{label}: {old} → {new}" if old and new else f"{label}: changed"


def _shown(before: str, value: Any) -> str:
    """A value that is short enough to be read; a token is not."""
    text = str(value)
    return before + text if len(text) <= _MAX_SHOWN else ""


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
