"""Ray's dashboard and a router, for `etr status`. Serve's answers are made with Ray's own models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from ray.serve.schema import (
    ApplicationDetails,
    DeploymentDetails,
    DeploymentSchema,
    ReplicaDetails,
    ServeApplicationSchema,
    ServeInstanceDetails,
)
from starlette.responses import JSONResponse, Response

from cluster.serve.client import ServeClient
from tests.fakes.models import served

HEAD = {
    "node_id": "head",
    "node_ip": "10.0.0.1",
    "state": "ALIVE",
    "resources_total": {"CPU": 4.0},
    "labels": {},
}


def replica(
    name: str = "r1", *, state: str = "RUNNING", node: str | None = "head", pid: int = 7
) -> ReplicaDetails:
    """Without a node it waits for one, and Serve leaves out what it does not know yet."""
    placed = {"node_id": node, "node_ip": "10.0.0.1", "pid": pid} if node else {}
    return ReplicaDetails(
        actor_id=f"actor-{name}", replica_id=name, actor_name=name, state=state, start_time_s=1.0, **placed
    )


def deployment(
    *replicas: ReplicaDetails,
    wanted: int = 1,
    status: str = "HEALTHY",
    message: str = "",
    needs: dict[str, float] | None = None,
    dead: Sequence[ReplicaDetails] = (),
    **config: Any,
) -> DeploymentDetails:
    return DeploymentDetails(
        name="Model",
        status=status,
        status_trigger="UNSPECIFIED",
        message=message,
        deployment_config=DeploymentSchema(name="Model", **config),
        target_num_replicas=wanted,
        required_resources=needs or {"CPU": 1.0},
        replicas=list(replicas),
        recent_dead_replicas=list(dead),
    )


def application(
    name: str,
    *deployments: DeploymentDetails,
    status: str = "RUNNING",
    message: str = "",
    config: dict[str, Any] | None = None,
) -> ApplicationDetails:
    """`config`: its deployment in the deploy config."""
    put = {"name": name, "import_path": "a:b", "deployments": [{"name": "Model", **(config or {})}]}
    return ApplicationDetails(
        name=name,
        route_prefix=None,
        docs_path=None,
        status=status,
        message=message,
        last_deployed_time_s=1.0,
        deployed_app_config=ServeApplicationSchema.model_validate(put),
        source="declarative",
        deployments={deployment.name: deployment for deployment in deployments},
        external_scaler_enabled=False,
    )


def expert(
    *replicas: ReplicaDetails, app_status: str = "RUNNING", app_message: str = "", **parts: Any
) -> ApplicationDetails:
    """The expert "chem"."""
    return application("expert-chem", deployment(*replicas, **parts), status=app_status, message=app_message)


def router(*experts: str, **pools: str) -> ApplicationDetails:
    table = {
        "table_version": 3,
        "meta": {"app": "meta"},
        "experts": {name: {"app": f"expert-{name}"} for name in experts}
        | {name: {"app": f"pool-{pool}", "adapter": name} for name, pool in pools.items()},
    }
    return application("router", deployment(replica()), config={"user_config": table})


@dataclass
class FakeDashboard:
    """A test may change every part. `has_router` False: /stats and /healthz do not exist."""

    apps: list[ApplicationDetails] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=lambda: [HEAD])
    actors: list[dict[str, Any]] = field(default_factory=list)
    placement_groups: list[dict[str, Any]] = field(default_factory=list)
    health: dict[str, Any] = field(
        default_factory=lambda: {"status": "ok", "table_version": 3, "experts": {}}
    )
    stats: list[dict[str, Any]] = field(default_factory=list)  # one for each request; the last one stays
    ejected: dict[str, dict[str, str]] = field(default_factory=dict)
    has_router: bool = True
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def details(self) -> dict[str, Any]:
        details = ServeInstanceDetails(
            controller_info={},
            http_options={"host": "127.0.0.1", "port": self.port},
            proxies={},
            applications={app.name: app for app in self.apps},
            target_capacity=None,
        )
        return details._get_user_facing_json_serializable_dict(exclude_unset=True)

    async def serve(self) -> Response:
        return JSONResponse(self.details())

    async def state(self, kind: str, request: Request) -> Response:
        """Ray's state API, with its filters."""
        self.asked.append(kind)
        query = request.query_params
        assert query["filter_predicates"] == "="
        assert query["detail"] == "1"
        found = [
            entry for entry in getattr(self, kind) if entry[query["filter_keys"]] == query["filter_values"]
        ]
        return JSONResponse({"result": True, "msg": "", "data": {"result": {"result": found}}})

    async def healthz(self) -> Response:
        return JSONResponse(self.health if self.has_router else {}, 200 if self.has_router else 404)

    async def loads(self) -> Response:
        if not self.has_router:
            return Response("no such path", 404)
        models = self.stats.pop(0) if len(self.stats) > 1 else self.stats[0] if self.stats else {}
        return JSONResponse({"table_version": 3, "models": models, "ejected": self.ejected})


def cluster_of(
    *apps: ApplicationDetails, adapters: Mapping[str, str] | None = None, **parts: Any
) -> FakeDashboard:
    """With a router that knows the experts among them, and `adapters` by the name of their pool."""
    experts = [app.name.removeprefix("expert-") for app in apps if app.name.startswith("expert-")]
    return FakeDashboard([router(*experts, **(adapters or {})), *apps], **parts)


@contextmanager
def dashboard(fake: FakeDashboard) -> Iterator[ServeClient]:
    app = FastAPI()
    for path, endpoint in (
        ("/api/serve/applications/", fake.serve),
        ("/api/v0/{kind}", fake.state),
        ("/healthz", fake.healthz),
        ("/stats", fake.loads),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], response_model=None)
    with served(app) as address, ServeClient(address) as client:
        fake.port = int(address.rpartition(":")[2])
        yield client
