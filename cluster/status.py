"""What Serve says of its applications, one line of truth each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.serve_client import ServeClient

# Serve's own words: of an application, and RUNNING of a replica too.
DEPLOYING = "DEPLOYING"
RUNNING = "RUNNING"
FAILED = "DEPLOY_FAILED"
UNHEALTHY = "UNHEALTHY"
DELETING = "DELETING"
FAILING = (FAILED, UNHEALTHY)
# Serve's words for a replica that it tries to start again and again.
RETRYING = "failed to start"
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*: \S")


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """`state` is Serve's own word. One that waits for a place has no process and no node yet."""

    state: str
    pid: int | None
    node_ip: str | None
    id: str | None = None
    node_id: str | None = None

    @property
    def waits_for_a_place(self) -> bool:
        return self.state == "STARTING" and self.node_id is None


@dataclass(frozen=True, slots=True)
class AppStatus:
    """`status` is Serve's own word; `message` the line that says why, empty when all is well.

    `error` is that line where something failed. Serve also uses messages to tell of its progress.
    """

    name: str
    status: str
    message: str
    num_wanted: int
    replicas: tuple[ReplicaStatus, ...]
    error: str = ""

    @property
    def num_running(self) -> int:
        return sum(replica.state == RUNNING for replica in self.replicas)

    @property
    def num_by_node(self) -> Counter[str]:
        return Counter(replica.node_id for replica in self.replicas if replica.node_id)


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
    parts = [*deployments, app]
    return AppStatus(
        name=name,
        status=app["status"],
        message=_root_message(part["message"] for part in parts),
        num_wanted=sum(deployment["target_num_replicas"] for deployment in deployments),
        replicas=tuple(_replica_status(replica) for replica in replicas),
        error=_root_message(part["message"] for part in parts if _is_failing(part, app)),
    )


def _replica_status(replica: dict[str, Any]) -> ReplicaStatus:
    """A replica that is being started has no process yet, and Serve leaves out what it does not know."""
    found = {key: replica.get(key) for key in ("pid", "node_ip", "node_id")}
    return ReplicaStatus(replica["state"], id=replica.get("replica_id"), **found)


def _is_failing(part: dict[str, Any], app: dict[str, Any]) -> bool:
    status = part.get("status", app["status"])
    return status in FAILING or RETRYING in part["message"]


def _root_message(messages: Iterable[str]) -> str:
    """Of the first message that says anything, the line that names an exception, the last one if several do;
    else its last line."""
    for message in messages:
        lines = [line.rstrip() for line in message.splitlines() if line.strip()]
        if lines:
            named = [line for line in lines if EXCEPTION.match(line)]
            return (named or lines)[-1].strip()
    return ""
