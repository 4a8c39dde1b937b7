"""The part of Serve's REST status that `etr` reads. Ray's own models of it would need `import ray`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

# Serve's own words: of an application, and RUNNING and STARTING of a replica too.
DEPLOYING = "DEPLOYING"
RUNNING = "RUNNING"
STARTING = "STARTING"
FAILED = "DEPLOY_FAILED"
UNHEALTHY = "UNHEALTHY"
DELETING = "DELETING"

# A deploy config, or a part of one: what was sent to Serve, which `etr plan` compares as it stands.
DeployConfig = Mapping[str, Any]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ReplicaDetails(_Answer):
    """Serve leaves out what it does not know: a replica that waits for a node has no node and no process."""

    state: str
    replica_id: str | None = None
    actor_id: str | None = None
    pid: int | None = None
    node_id: str | None = None
    node_ip: str | None = None


class DeploymentDetails(_Answer):
    """`required_resources`: what one replica reserves, by Ray's name of the resource."""

    status: str = ""
    message: str = ""
    target_num_replicas: int = 0
    deployment_config: dict[str, Any] = {}
    required_resources: dict[str, float] | None = None
    replicas: tuple[ReplicaDetails, ...] = ()
    recent_dead_replicas: tuple[ReplicaDetails, ...] = ()


class AppDetails(_Answer):
    """`deployed_app_config` is the application's part of the deploy config as it was sent."""

    status: str
    message: str = ""
    deployed_app_config: dict[str, Any] | None = None
    deployments: dict[str, DeploymentDetails] = {}

    @property
    def replicas(self) -> list[ReplicaDetails]:
        return [replica for deployment in self.deployments.values() for replica in deployment.replicas]


class HttpOptions(_Answer):
    host: str | None = None
    port: int | None = None


class ServeDetails(_Answer):
    """Every application by name, and where Serve listens (None until a config says so)."""

    applications: dict[str, AppDetails]
    http_options: HttpOptions | None = None
    proxy_location: str | None = None

    @property
    def deployed(self) -> dict[str, dict[str, Any]]:
        """The config of every application that was deployed by one, without those that are being deleted."""
        return {
            name: app.deployed_app_config
            for name, app in self.applications.items()
            if app.deployed_app_config and app.status != DELETING
        }


def versioned_configs(apps: Iterable[DeployConfig]) -> dict[str, dict[str, Any]]:
    """The `user_config` of every application that has a table_version in it: the router's and the meta's."""
    return dict(_versioned(apps))


def _versioned(apps: Iterable[DeployConfig]) -> Iterator[tuple[str, dict[str, Any]]]:
    for app in apps:
        for deployment in app.get("deployments", ()):
            user_config = deployment.get("user_config") or {}
            if isinstance(user_config.get("table_version"), int):  # another project's may be anything
                yield app["name"], user_config
