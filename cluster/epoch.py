"""The epoch: one number for the route table and the meta's tokens, which grows when either changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cluster.status import DELETING


def set_epoch(deploy: dict[str, Any], running: dict[str, Any]) -> None:
    """Number the tables of a deploy config: the `running` number while they are the same, else one more."""
    epoch = _next_epoch(deploy, running)
    for _, table in _numbered(deploy["applications"]):
        table["epoch"] = epoch


def tables(apps: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The `user_config` of every application config that has a numbered one, by application."""
    return dict(_numbered(apps))


def deployed(running: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The configs that were applied, by application, of what Serve says of itself. Those that came another
    way, as through `serve.run`, have none; those that are being deleted do not count."""
    apps = running["applications"].items()
    here = {name: app.get("deployed_app_config") for name, app in apps if app["status"] != DELETING}
    return {name: config for name, config in here.items() if config}


def _next_epoch(deploy: dict[str, Any], running: dict[str, Any]) -> int:
    wanted, found = tables(deploy["applications"]), tables(deployed(running).values())
    epochs = [int(table["epoch"]) for table in found.values()]
    if not epochs:
        return 1
    same = all(_unnumbered(table) == _unnumbered(found.get(app, {})) for app, table in wanted.items())
    return max(epochs) + (not same or len(set(epochs)) > 1)


def _numbered(apps: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for app in apps:
        for deployment in app.get("deployments", ()):
            user_config = deployment.get("user_config") or {}
            if "epoch" in user_config:
                yield app["name"], user_config


def _unnumbered(user_config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in user_config.items() if key != "epoch"}
