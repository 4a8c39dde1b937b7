"""What applying a cluster.yaml would change: which applications start, restart, change in place or stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cluster.addresses import host_of, is_loopback
from cluster.config.cluster_config import ClusterConfig
from cluster.differences import differences
from cluster.errors import ConfigError
from cluster.serve.client import ServeClient
from cluster.serve.deploy_config import build_serve_config
from cluster.serve.serve_details import (
    FAILED,
    RUNNING,
    AppDetails,
    DeployConfig,
    ServeDetails,
    versioned_configs,
)

# Serve replaces every replica of an application if one of these changes, or a part of one.
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
    """What Serve is to run, and what that changes.

    Attributes:
        deploy: the deploy config that Serve runs in the end.
        changes: one entry for every application, sorted by name.
        removed: the configs, as they run now, of the applications that stop.
        losing_adapters: the configs, as they run now, of the pools that lose an adapter.
        retried: the applications that failed and are started again.
        made_from: the configs that ran when the plan was made, by application.
    """

    deploy: dict[str, Any]
    changes: tuple[AppChange, ...]
    removed: tuple[dict[str, Any], ...] = ()
    losing_adapters: tuple[dict[str, Any], ...] = ()
    retried: frozenset[str] = frozenset()
    made_from: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def changes_nothing(self) -> bool:
        return all(change.change is Change.KEEP for change in self.changes)

    @property
    def first(self) -> dict[str, Any] | None:
        """The deploy config that must run before `deploy`; None: none.

        It has the new route table while removed experts still run, so that no answer is handed over to them
        while they finish theirs. It lacks applications that failed: Serve ignores an unchanged config.
        """
        if not self.removed and not self.losing_adapters and not self.retried:
            return None
        kept = [app for app in self.deploy["applications"] if app["name"] not in self.retried]
        return {**self.deploy, "applications": replaced(kept, (*self.losing_adapters, *self.removed))}


def make_plan(config: ClusterConfig, client: ServeClient) -> Plan:
    """Compare cluster.yaml with what runs behind `client`. Changes nothing.

    Raises:
        ConfigError, ServeUnreachable, ServeRefused.
    """
    _require_reachable(config, client.address)
    _require_same_http(config, client.details())
    deploy = build_serve_config(config)  # may read large adapters, so before what it is compared with
    return compare(deploy, client.details())


def compare(deploy: dict[str, Any], running: ServeDetails) -> Plan:
    """The plan that leads from what Serve runs to `deploy`, whose route table gets its version here."""
    old = running.deployed
    set_table_version(deploy, old)
    apps = [_without_rescaling(app, old.get(app["name"])) for app in deploy["applications"]]
    deploy = {**deploy, "applications": apps}
    wanted = {app["name"]: app for app in apps}
    unchanged = {name for name, app in wanted.items() if old.get(name) == app}
    retried = frozenset(name for name in unchanged if _must_be_retried(running.applications[name]))
    changes = [_change(name, old.get(name), wanted.get(name), name in retried) for name in {**old, **wanted}]
    return Plan(
        deploy=deploy,
        changes=tuple(sorted(changes, key=lambda change: change.app)),
        removed=tuple(app for name, app in sorted(old.items()) if name not in wanted),
        losing_adapters=tuple(losing_adapters(apps, old)),
        retried=retried,
        made_from=old,
    )


def set_table_version(deploy: DeployConfig, deployed: Mapping[str, DeployConfig]) -> None:
    """Number the route table and the meta's tokens in `deploy`.

    They keep the number that is `deployed` (configs by application) if they are the same, else get the next.
    """
    version = _next_table_version(deploy, deployed)
    for user_config in versioned_configs(deploy["applications"]).values():
        user_config["table_version"] = version


def losing_adapters(
    wanted: Iterable[DeployConfig], deployed: Mapping[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The configs in `deployed` of the applications that have an adapter which `wanted` lacks."""
    for app in wanted:
        running = deployed.get(app["name"])
        if running is not None and _adapters(running) - _adapters(app):
            yield running


def replaced(apps: Iterable[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`apps`, with each of `others` in place of the app with the same name, or else at the end."""
    by_name = {app["name"]: app for app in others}
    kept = [by_name.pop(app["name"], app) for app in apps]
    return [*kept, *by_name.values()]


def _next_table_version(deploy: DeployConfig, deployed: Mapping[str, DeployConfig]) -> int:
    wanted, found = versioned_configs(deploy["applications"]), versioned_configs(deployed.values())
    versions = {int(user_config["table_version"]) for user_config in found.values()}
    if not versions:
        return 1
    same = all(
        _without(user_config, "table_version") == _without(found.get(app, {}), "table_version")
        for app, user_config in wanted.items()
    )
    return max(versions) if same and len(versions) == 1 else max(versions) + 1


def _without_rescaling(app: dict[str, Any], deployed: dict[str, Any] | None) -> dict[str, Any]:
    """The config for an application that runs already, without `initial_replicas`.

    Serve would scale it back to that number at every change.
    """
    if deployed is None:
        return app
    wanted = _without_initial(app)
    return deployed if wanted == _without_initial(deployed) else wanted


def _without_initial(app: dict[str, Any]) -> dict[str, Any]:
    def without(deployment: dict[str, Any]) -> dict[str, Any]:
        scaling = deployment.get("autoscaling_config", {})
        return {**deployment, "autoscaling_config": _without(scaling, _INITIAL)} if scaling else deployment

    return {**app, "deployments": [without(deployment) for deployment in app.get("deployments", ())]}


def _without(mapping: Mapping[str, Any], left_out: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != left_out}


def _change(name: str, old: DeployConfig | None, wanted: DeployConfig | None, retried: bool) -> AppChange:
    if old is None:
        return AppChange(name, Change.START)
    if wanted is None:
        return AppChange(name, Change.STOP)
    if retried:
        return AppChange(name, Change.START, ("it failed and is tried again",))
    # The table version follows from the other differences.
    found = [
        difference
        for difference in differences(_merged(old), _merged(wanted))
        if difference.path != "user_config.table_version"
    ]
    if not found:
        return AppChange(name, Change.KEEP)
    restarts = any(difference.path.startswith(RESTARTING) for difference in found)
    why = tuple(str(difference).removeprefix("user_config.") for difference in found)
    return AppChange(name, Change.RESTART if restarts else Change.UPDATE, why)


def _merged(app: DeployConfig) -> dict[str, Any]:
    """Our applications have one deployment each: its keys stand beside the application's own."""
    merged = _without(app, "deployments")
    for deployment in app.get("deployments", ()):
        merged |= deployment
    return merged


def _must_be_retried(app: AppDetails) -> bool:
    """Whether it failed and no replica is left that a removal would end."""
    return app.status == FAILED and not any(replica.state == RUNNING for replica in app.replicas)


def _adapters(app: DeployConfig) -> set[str]:
    configs = (deployment.get("user_config") or {} for deployment in app.get("deployments", ()))
    return {name for config in configs for name in config.get("adapters") or ()}


def _require_reachable(config: ClusterConfig, address: str) -> None:
    """A proxy that listens on the loopback of another machine cannot be reached from here."""
    dashboard, host = host_of(address), config.http.host
    if dashboard and is_loopback(host) and not is_loopback(dashboard):
        raise ConfigError(
            [
                f"{config.source}: http.host: {host} on {dashboard} cannot be reached from here; "
                "use 0.0.0.0 or that node's address"
            ]
        )


def _require_same_http(config: ClusterConfig, running: ServeDetails) -> None:
    """Serve keeps the address it started with and ignores another."""
    if running.http_options is None:
        return
    now, wanted = running.http_options, config.http
    for key, old, new in (("host", now.host, wanted.host), ("port", now.port, wanted.port)):
        if old is not None and old != new:
            raise ConfigError(
                [
                    f"{config.source}: http.{key}: Serve already listens on {old!r} and cannot move; "
                    "run `etr down` and `etr up`"
                ]
            )
