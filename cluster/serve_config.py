"""cluster.yaml → Serve's deploy config, the same dict for its REST API and for a RayService. Imports Ray."""

from __future__ import annotations

from typing import Any

from cluster.adapter_source import LocalAdapter
from cluster.app_name import META_APP as META_APP  # as others know them
from cluster.app_name import ROUTER_APP as ROUTER_APP
from cluster.app_name import expert_app as expert_app
from cluster.app_name import pool_app
from cluster.blocks import Autoscaling, Health, Replicated, Resources, ServedModel
from cluster.config import ClusterConfig
from cluster.config_keys import config_keys
from cluster.engine_block import VllmEngine
from cluster.errors import ConfigError
from cluster.expert_block import AdapterExpert, RemoteExpert, ReplicatedExpert
from cluster.hosts import is_loopback
from cluster.placement import placement
from cluster.serve_schema import check_deploy_config
from cluster.tokens import inline_tokens
from deployments.apps import ROUTER_DEPLOYMENT
from deployments.choice import CHOICE
from deployments.model_app import MODEL_DEPLOYMENT
from deployments.scaling import POLICY
from experts.adapter import adapter_digest
from experts.errors import ModelLoadError
from router.table import META

# A router refuses at once, fairly and in words that clients understand; Serve would do none of that. So
# Serve's own limits are twice what a router takes on, and those of models are not met before the router's.
ROUTER_ROOM = 2
QUEUE_FACTOR = 4  # of a model, at the least: waiting calls per running one


def build_serve_config(config: ClusterConfig, *, epoch: int = 1) -> dict[str, Any]:
    """One application for each model and pool and one for the router, in sorted order; equal input, equal
    output.

    `epoch` numbers the route table and the meta's tokens.

    Raises:
        ConfigError: an expert's token or adapter or an API key is unusable, or a value is none that Serve
            takes.
    """
    experts = [_expert_app(config, name, block) for name, block in config.replicated_experts.items()]
    pools = [_pool_app(config, name) for name in config.pools]
    deploy = {
        # A proxy on each node that serves, unless only this machine may ask.
        "proxy_location": "HeadOnly" if is_loopback(config.http.host) else "EveryNode",
        "http_options": {"host": config.http.host, "port": config.http.port},
        "applications": [*experts, *pools, _meta_app(config, epoch), _router_app(config, epoch)],
    }
    check_deploy_config(deploy, config.source)
    return deploy


def _meta_app(config: ClusterConfig, epoch: int) -> dict[str, Any]:
    tokens = {"epoch": epoch, "tokens": inline_tokens(config)}
    return _app(config, META_APP, config.meta, _loaded(META, config.meta), tokens)


def _expert_app(config: ClusterConfig, name: str, block: ReplicatedExpert) -> dict[str, Any]:
    if isinstance(block, RemoteExpert):
        built = _remote(name, block)
    else:
        assert isinstance(block, ServedModel)
        built = _loaded(name, block)
    return _app(config, expert_app(name), block, built, {})


def _pool_app(config: ClusterConfig, name: str) -> dict[str, Any]:
    block = config.pools[name]
    adapters = {
        expert: _adapter(config, expert, one)
        for expert, one in config.adapter_experts.items()
        if one.adapter.pool == name
    }
    return _app(config, pool_app(name), block, _loaded(name, block), {"adapters": adapters})


def _adapter(config: ClusterConfig, name: str, block: AdapterExpert) -> dict[str, Any]:
    """Other weights in the same folder are another adapter; of what lies elsewhere nobody here can tell."""
    source = {"source": block.adapter.source}
    if not isinstance(block.adapter, LocalAdapter) or not config.models_are_here:
        return source
    try:
        return {**source, "digest": adapter_digest(block.adapter.path)}
    except ModelLoadError as error:
        raise ConfigError([f"{config.source}: experts.{name}.adapter.path: {error}"]) from error


def _loaded(name: str, block: ServedModel) -> dict[str, Any]:
    """What Serve builds the application of."""
    return {
        "import_path": "deployments.apps:build_model",
        "args": {
            "name": name,
            "model": block.model.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            "engine": _engine(block),
        },
    }


def _engine(block: ServedModel) -> dict[str, Any]:
    settings = block.engine.model_dump(mode="json", exclude_none=True)
    if isinstance(block.engine, VllmEngine):
        settings["tensor_parallel"] = block.resources.tensor_parallel
    return settings


def _remote(name: str, block: RemoteExpert) -> dict[str, Any]:
    return {
        "import_path": "deployments.apps:build_remote",
        "args": {"name": name, "remote": block.remote.model_dump(mode="json", exclude_none=True)},
    }


def _app(
    config: ClusterConfig, app: str, block: Replicated, built: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    max_streams = block.max_streams
    deployment = {
        "name": MODEL_DEPLOYMENT,
        "max_ongoing_requests": max_streams,
        "max_queued_requests": max(
            QUEUE_FACTOR * max_streams, ROUTER_ROOM * config.router.limits.max_requests
        ),
        "max_surge_percent": 100 if block.rollout == "start_first" else 0,
        "request_router_config": {"request_router_class": CHOICE},
        **_common(block.autoscaling, block.resources, block.target_ongoing_requests, block.health),
        # What is not written to its end by then, the router has another replica write.
        "graceful_shutdown_timeout_s": config.routing.deadlines.longest_drain_s,
        "user_config": {
            "target_tokens_in_flight": block.autoscaling.target_tokens_in_flight,
            **settings,
        },
    }
    return {
        "name": app,
        "route_prefix": None,
        **built,
        "deployments": [deployment],
    }


def _router_app(config: ClusterConfig, epoch: int) -> dict[str, Any]:
    router = config.router
    num_requests = ROUTER_ROOM * router.limits.max_requests
    deployment = {
        "name": ROUTER_DEPLOYMENT,
        "max_ongoing_requests": num_requests,
        "max_queued_requests": num_requests,
        # With a limit per node there may be no node for one more; then there are others that serve.
        "max_surge_percent": 100 if router.max_replicas_per_node is None else 0,
        **_common(router.autoscaling, router.resources, router.target_ongoing_requests, Health()),
        # No client is kept longer, so a router that is told to stop can finish all of its answers.
        "graceful_shutdown_timeout_s": config.routing.deadlines.longest_s,
        "user_config": _route_table(config, epoch),
    }
    if router.max_replicas_per_node is not None:
        deployment["max_replicas_per_node"] = router.max_replicas_per_node
    return {
        "name": ROUTER_APP,
        "route_prefix": "/",
        "import_path": "deployments.apps:build_router",
        "args": {"max_body_bytes": config.http.max_body_bytes},
        "deployments": [deployment],
    }


def _common(autoscaling: Autoscaling, resources: Resources, target: float, health: Health) -> dict[str, Any]:
    """All of it from the first deploy on: a key that appears only later can make Serve restart the app. So
    every deployment has our scaling policy, whether or not it has a target for tokens."""
    return {
        "autoscaling_config": {
            **autoscaling.model_dump(mode="json", exclude_none=True, exclude={"target_tokens_in_flight"}),
            "target_ongoing_requests": target,
            "policy": {"policy_function": POLICY},
        },
        **placement(resources),
        "health_check_period_s": health.period_s,
        "health_check_timeout_s": health.timeout_s,
    }


def _route_table(config: ClusterConfig, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "name": config.name,
        "meta": _entry(META_APP, config.meta),
        "experts": {
            name: {
                **_expert_entry(config, name),
                "cold_start": block.cold_start,
                "when_away": block.when_away,
            }
            for name, block in sorted(config.experts.items())
        },
        **config.routing.rules(),
        "keys": [key.model_dump(mode="json") for key in config_keys(config)],
        "limits": config.router.limits.model_dump(mode="json"),
    }


def _expert_entry(config: ClusterConfig, name: str) -> dict[str, Any]:
    block = config.experts[name]
    if isinstance(block, AdapterExpert):
        pool = block.adapter.pool
        return {**_entry(pool_app(pool), config.pools[pool]), "adapter": name}
    return _entry(expert_app(name), block)


def _entry(app: str, block: Replicated) -> dict[str, Any]:
    return {
        "app": app,
        "wakes": block.autoscaling.min_replicas == 0,
        **block.deadlines.model_dump(mode="json"),
        "max_streams": block.max_streams,
    }
