"""The status of every Serve application, each with the one line that says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cluster.serve.client import ServeClient
from cluster.serve.serve_details import (
    FAILED,
    RUNNING,
    STARTING,
    UNHEALTHY,
    AppDetails,
    DeploymentDetails,
    ReplicaDetails,
    ServeDetails,
)
from deployments.replicas.serve_messages import root_message

# Two words of our own, after Serve's RUNNING and DELETING.
ANSWERS = "ANSWERS"  # the router got an answer from it
STOPPED = "STOPPED"  # it is gone, and its last answer was written to the end

FAILING = (FAILED, UNHEALTHY)
RETRYING = "failed to start"  # Serve's message while it starts a replica again and again


@dataclass(frozen=True, slots=True)
class AppEvent:
    """The status of an application changed: to Serve's word for it, ANSWERS or STOPPED."""

    app: str
    status: str
    message: str = ""


OnEvent = Callable[[AppEvent], None]


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """`state` is Serve's own word. A replica that waits for a node has neither process nor node."""

    state: str
    pid: int | None
    node_ip: str | None
    id: str | None = None
    node_id: str | None = None

    @property
    def waits_for_node(self) -> bool:
        return self.state == STARTING and self.node_id is None


@dataclass(frozen=True, slots=True)
class AppStatus:
    """`status` is Serve's own word.

    `message` is the one line of Serve's messages that says why, and may only report progress; `error` is
    that line if something failed. Both are empty if there is nothing to report.
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


def app_statuses(details: ServeDetails) -> list[AppStatus]:
    return [_app_status(name, app) for name, app in sorted(details.applications.items())]


def _app_status(name: str, app: AppDetails) -> AppStatus:
    deployments = list(app.deployments.values())
    parts: list[DeploymentDetails | AppDetails] = [*deployments, app]
    return AppStatus(
        name=name,
        status=app.status,
        message=root_message(part.message for part in parts),
        num_wanted=sum(deployment.target_num_replicas for deployment in deployments),
        replicas=tuple(_replica_status(replica) for replica in app.replicas),
        error=root_message(part.message for part in parts if _is_failing(part, app)),
    )


def _replica_status(replica: ReplicaDetails) -> ReplicaStatus:
    return ReplicaStatus(replica.state, replica.pid, replica.node_ip, replica.replica_id, replica.node_id)


def _is_failing(part: DeploymentDetails | AppDetails, app: AppDetails) -> bool:
    return (part.status or app.status) in FAILING or RETRYING in part.message
