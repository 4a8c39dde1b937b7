"""What runs: one line of truth per application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.serve_client import ServeClient


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    state: str
    pid: int | None
    node_ip: str | None


@dataclass(frozen=True, slots=True)
class AppStatus:
    """`status` is Serve's own word; `message` the line that says why, empty when all is well."""

    name: str
    status: str
    message: str
    num_wanted: int
    replicas: tuple[ReplicaStatus, ...]


def status(client: ServeClient) -> list[AppStatus]:
    """Every application, sorted by name.

    Raises:
        ServeUnreachable, ServeRefused.
    """
    return app_statuses(client.details())


def app_statuses(details: dict[str, Any]) -> list[AppStatus]:
    return [_app_status(name, app) for name, app in sorted(details["applications"].items())]


def _app_status(name: str, app: dict[str, Any]) -> AppStatus:
    deployments = list(app["deployments"].values())
    replicas = [replica for deployment in deployments for replica in deployment["replicas"]]
    return AppStatus(
        name=name,
        status=app["status"],
        message=_root_message([*(deployment["message"] for deployment in deployments), app["message"]]),
        num_wanted=sum(deployment["target_num_replicas"] for deployment in deployments),
        replicas=tuple(
            # A replica that is being started has no process yet.
            ReplicaStatus(replica["state"], replica.get("pid"), replica.get("node_ip"))
            for replica in replicas
        ),
    )


def _root_message(messages: list[str]) -> str:
    """The last line of the first message that says anything: of a traceback, the exception itself."""
    for message in messages:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return ""
