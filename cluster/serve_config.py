"""cluster.yaml → Serve's deploy config, the same dict for its REST API and for a RayService. Imports Ray."""

from __future__ import annotations

from typing import Any

from cluster.blocks import Autoscaling, Resources, ServedModel
from cluster.config import ClusterConfig
from cluster.hosts import is_loopback
from cluster.placement import placement
from cluster.serve_schema import check_deploy_config
from cluster.tokens import inline_tokens
from deployments.apps import MODEL_DEPLOYMENT, ROUTER_DEPLOYMENT
from deployments.scaling import POLICY
from router.table import META

META_APP = "meta"
ROUTER_APP = "router"
ROUTER_MAX_ONGOING_REQUESTS = 512
ROUTER_TARGET_ONGOING_REQUESTS = 128.0
# Waiting requests per running one; a longer queue is only a later refusal.
QUEUE_FACTOR = 4


def build_serve_config(config: ClusterConfig, *, epoch: int = 1) -> dict[str, Any]:
    """One application for each model and one for the router, in sorted order; equal input, equal output.

    `epoch` numbers the route table and the meta's tokens.

    Raises:
        ConfigError: an expert token is unusable, or a value is none that Serve takes.
    """
    experts = {name: _expert_app(config, name, block) for name, block in config.local_experts.items()}
    deploy = {
        # A proxy on each node that serves, unless only this machine may ask.
        "proxy_location": "HeadOnly" if is_loopback(config.http.host) else "EveryNode",
        "http_options": {"host": config.http.host, "port": config.http.port},
        "applications": [*experts.values(), _meta_app(config, epoch), _router_app(config, epoch)],
    }
    check_deploy_config(deploy, config.source)
    return deploy


def expert_app(name: str) -> str:
    return f"expert-{name}"


def _meta_app(config: ClusterConfig, epoch: int) -> dict[str, Any]:
    tokens = {"epoch": epoch, "tokens": inline_tokens(config)}
    return _model_app(config, META_APP, META, config.meta, tokens)


def _expert_app(config: ClusterConfig, name: str, block: ServedModel) -> dict[str, Any]:
    return _model_app(config, expert_app(name), name, block, {})


def _model_app(
    config: ClusterConfig, app: str, name: str, block: ServedModel, settings: dict[str, Any]
) -> dict[str, Any]:
    max_streams = block.engine.max_streams
    deployment = {
        "name": MODEL_DEPLOYMENT,
        "max_ongoing_requests": max_streams,
        "max_queued_requests": QUEUE_FACTOR * max_streams,
        "max_surge_percent": 100 if block.rollout == "start_first" else 0,
        **_common(config, block.autoscaling, block.resources, block.target_ongoing_requests),
        "user_config": {
            "target_tokens_in_flight": block.autoscaling.target_tokens_in_flight,
            **settings,
        },
    }
    return {
        "name": app,
        "route_prefix": None,
        "import_path": "deployments.apps:build_model",
        "args": {
            "name": name,
            "model": block.model.model_dump(mode="json", exclude_none=True),
            "engine": block.engine.model_dump(mode="json", exclude_none=True),
        },
        "deployments": [deployment],
    }


def _router_app(config: ClusterConfig, epoch: int) -> dict[str, Any]:
    autoscaling = config.router.autoscaling
    target = autoscaling.target_ongoing_requests or ROUTER_TARGET_ONGOING_REQUESTS
    deployment = {
        "name": ROUTER_DEPLOYMENT,
        "max_ongoing_requests": ROUTER_MAX_ONGOING_REQUESTS,
        "max_queued_requests": ROUTER_MAX_ONGOING_REQUESTS,
        # With a limit per node there may be no node for one more; then there are others that serve.
        "max_surge_percent": 100 if config.router.max_replicas_per_node is None else 0,
        **_common(config, autoscaling, config.router.resources, target),
        "graceful_shutdown_timeout_s": config.routing.deadlines.longest_s,
        "user_config": _route_table(config, epoch),
    }
    if config.router.max_replicas_per_node is not None:
        deployment["max_replicas_per_node"] = config.router.max_replicas_per_node
    return {
        "name": ROUTER_APP,
        "route_prefix": "/",
        "import_path": "deployments.apps:build_router",
        "args": {"max_body_bytes": config.http.max_body_bytes},
        "deployments": [deployment],
    }


def _common(
    config: ClusterConfig, autoscaling: Autoscaling, resources: Resources, target: float
) -> dict[str, Any]:
    """All of it from the first deploy on: a key that appears only later can make Serve restart the app. So
    every deployment has our scaling policy, whether or not it has a target for tokens."""
    return {
        "autoscaling_config": {
            **autoscaling.model_dump(mode="json", exclude_none=True, exclude={"target_tokens_in_flight"}),
            "target_ongoing_requests": target,
            "policy": {"policy_function": POLICY},
        },
        **placement(resources),
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 10.0,
        # No answer lasts longer, so a replica told to stop can finish all of its own.
        "graceful_shutdown_timeout_s": config.routing.deadlines.total_s,
    }


def _route_table(config: ClusterConfig, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "name": config.name,
        "meta": _entry(META_APP, config.meta),
        "experts": {
            name: {**_entry(expert_app(name), block), "cold_start": block.cold_start}
            for name, block in config.local_experts.items()
        },
        **config.routing.model_dump(mode="json"),
    }


def _entry(app: str, block: ServedModel) -> dict[str, Any]:
    return {"app": app, "wakes": block.autoscaling.min_replicas == 0}
