"""cluster.yaml → Serve's deploy config, the same dict for its REST API and for a RayService. Imports Ray."""

from __future__ import annotations

from typing import Any

from cluster.addresses import is_loopback
from cluster.config.cluster_config import ClusterConfig
from cluster.config.embedder import AnyEmbedderConfig, EmbedderConfig, RemoteEmbedderConfig
from cluster.config.engine import VllmEngineConfig
from cluster.config.expert import AdapterExpertConfig, RemoteExpertConfig, ReplicatedExpertConfig
from cluster.config.expert_tokens import inline_shadows, inline_tokens
from cluster.config.loaded_model import LoadedModelConfig
from cluster.config.model_source import LocalAdapterConfig
from cluster.config.replicated_model import AutoscalingConfig, HealthConfig, ReplicatedConfig, ResourcesConfig
from cluster.errors import ConfigError
from cluster.serve.app_names import META_APP, ROUTER_APP, embedder_app, expert_app, pool_app
from cluster.serve.deploy_schema import check_deploy_config
from cluster.serve.replica_resources import resource_options
from cluster.serve.route_table import reads_media, require_pillow, route_table
from cluster.serve.telemetry import logging_options, require_otel, tracing_settings
from deployments.apps import ROUTER_DEPLOYMENT
from deployments.model_app import MODEL_DEPLOYMENT
from deployments.replica_router import REQUEST_ROUTER
from deployments.scaling import POLICY
from experts.adapter import adapter_digest
from experts.errors import ModelLoadError
from router.table import META

# The router refuses excess requests at once, fairly and in the API's own error format; Serve does none of
# that. So Serve's limits are set so high that the router's limits are always reached first.
REQUESTS_FACTOR = 2  # Serve's limit per request that the router admits
MIN_QUEUE_FACTOR = 4  # queued calls per running call of a model, at least


def build_serve_config(config: ClusterConfig, *, table_version: int = 1) -> dict[str, Any]:
    """One application for each model, each pool and the router. Equal input gives equal output.

    Args:
        table_version: the number of the route table and of the meta's tokens.

    Raises:
        ConfigError: a token, an adapter or an API key cannot be used, the extra for `tracing` is missing, or
            Serve does not accept a value.
    """
    require_otel(config)
    require_pillow(config)
    experts = [_expert_app(config, name, block) for name, block in config.replicated_experts.items()]
    pools = [_pool_app(config, name) for name in config.pools]
    embedders = [_embedder_app(config, *item) for item in config.embeddings.items()]
    deploy = {
        # A proxy on every node that has replicas, unless only this machine may send requests.
        "proxy_location": "HeadOnly" if is_loopback(config.http.host) else "EveryNode",
        "http_options": {"host": config.http.host, "port": config.http.port},
        "applications": [
            *experts,
            *pools,
            *embedders,
            _meta_app(config, table_version),
            _router_app(config, table_version),
        ],
    }
    check_deploy_config(deploy, config.source)
    return deploy


def _meta_app(config: ClusterConfig, table_version: int) -> dict[str, Any]:
    tokens = {"table_version": table_version, "tokens": inline_tokens(config)}
    shadows = {"shadows": inline_shadows(config)} if config.shadows else {}
    adapters = {"adapters": _adapters(config, META)} if config.meta.max_adapters else {}
    return _app(config, META_APP, config.meta, _loaded(META, config.meta), {**tokens, **shadows, **adapters})


def _expert_app(config: ClusterConfig, name: str, block: ReplicatedExpertConfig) -> dict[str, Any]:
    if isinstance(block, RemoteExpertConfig):
        built = _remote("build_remote", name, block)
    else:
        assert isinstance(block, LoadedModelConfig)
        built = _loaded(name, block)
    return _app(config, expert_app(name), block, built, {})


def _pool_app(config: ClusterConfig, name: str) -> dict[str, Any]:
    block = config.pools[name]
    return _app(config, pool_app(name), block, _loaded(name, block), {"adapters": _adapters(config, name)})


def _embedder_app(config: ClusterConfig, name: str, block: AnyEmbedderConfig) -> dict[str, Any]:
    if isinstance(block, RemoteEmbedderConfig):
        built = _remote("build_remote_embedder", name, block)
        return _app(config, embedder_app(name), block, built, {})
    built = {
        "import_path": "deployments.apps:build_embedder",
        "args": {
            "name": name,
            "model": _source(block),
            "engine": block.engine.model_dump(mode="json", exclude_none=True),
        },
    }
    return _app(config, embedder_app(name), block, built, {})


def _adapters(config: ClusterConfig, pool: str) -> dict[str, Any]:
    return {
        name: _adapter(config, name, block)
        for name, block in config.adapter_experts.items()
        if block.adapter.pool == pool
    }


def _adapter(config: ClusterConfig, name: str, block: AdapterExpertConfig) -> dict[str, Any]:
    """With a digest, so that new weights in the same folder are a new version; only local files have one."""
    source: dict[str, Any] = {"source": block.adapter.source}
    if (invocation := block.adapter.invocation_in_place) is not None:
        source["invocation"] = invocation
    if not isinstance(block.adapter, LocalAdapterConfig) or not config.models_are_here:
        return source
    try:
        return {**source, "digest": adapter_digest(block.adapter.path)}
    except ModelLoadError as error:
        raise ConfigError([f"{config.source}: experts.{name}.adapter.path: {error}"]) from error


def _loaded(name: str, block: LoadedModelConfig) -> dict[str, Any]:
    """The builder of an application whose replicas load a model, and its arguments."""
    return {
        "import_path": "deployments.apps:build_model",
        "args": {
            "name": name,
            "model": _source(block),
            "engine": _engine(block),
        },
    }


def _source(block: LoadedModelConfig | EmbedderConfig) -> dict[str, Any]:
    return block.model.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def _engine(block: LoadedModelConfig) -> dict[str, Any]:
    # Only if there are any: another value would restart replicas, some of an earlier release.
    settings = block.engine.model_dump(mode="json", exclude_none=True, exclude={"images"})
    if "image" in block.reads:
        settings["images"] = True
    if isinstance(block.engine, VllmEngineConfig):
        settings["tensor_parallel"] = block.resources.tensor_parallel
        settings["pipeline_parallel"] = block.resources.pipeline_parallel
    return settings


def _remote(builder: str, name: str, block: RemoteExpertConfig | RemoteEmbedderConfig) -> dict[str, Any]:
    return {
        "import_path": f"deployments.apps:{builder}",
        "args": {"name": name, "remote": block.remote.model_dump(mode="json", exclude_none=True)},
    }


def _app(
    config: ClusterConfig, app: str, block: ReplicatedConfig, built: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    max_streams = block.max_streams
    deployment = {
        "name": MODEL_DEPLOYMENT,
        "max_ongoing_requests": max_streams,
        "max_queued_requests": max(
            MIN_QUEUE_FACTOR * max_streams, REQUESTS_FACTOR * config.router.limits.max_requests
        ),
        "max_surge_percent": 100 if block.rollout == "start_first" else 0,
        "request_router_config": {"request_router_class": REQUEST_ROUTER},
        **_common(block.autoscaling, block.resources, block.target_ongoing_requests, block.health),
        **logging_options(config),
        # If an answer is not finished by then, the router resumes it on another replica.
        "graceful_shutdown_timeout_s": config.routing.deadlines.longest_drain_s,
        "user_config": {
            "target_tokens_in_flight": block.autoscaling.target_tokens_in_flight,
            **settings,
            **tracing_settings(config),
        },
    }
    return {
        "name": app,
        "route_prefix": None,
        **built,
        "deployments": [deployment],
    }


def _router_app(config: ClusterConfig, table_version: int) -> dict[str, Any]:
    router = config.router
    num_requests = REQUESTS_FACTOR * router.limits.max_requests
    deployment = {
        "name": ROUTER_DEPLOYMENT,
        "max_ongoing_requests": num_requests,
        "max_queued_requests": num_requests,
        # With a limit per node there may be no room for a surplus replica; the others serve meanwhile.
        "max_surge_percent": 100 if router.max_replicas_per_node is None else 0,
        **_common(router.autoscaling, router.resources, router.target_ongoing_requests, HealthConfig()),
        **logging_options(config),
        # The longest that an answer may take, so that a router which stops can finish all of its answers.
        "graceful_shutdown_timeout_s": config.routing.deadlines.longest_s,
        "user_config": route_table(config, table_version),
    }
    if router.max_replicas_per_node is not None:
        deployment["max_replicas_per_node"] = router.max_replicas_per_node
    return {
        "name": ROUTER_APP,
        "route_prefix": "/",
        "import_path": "deployments.apps:build_router",
        "args": {"max_body_bytes": config.http.max_body_bytes + _max_media_bytes(config)},
        "deployments": [deployment],
    }


def _max_media_bytes(config: ClusterConfig) -> int:
    """How many bytes of a request body its media may take."""
    return config.http.media.max_encoded_bytes if reads_media(config) else 0


def _common(
    autoscaling: AutoscalingConfig, resources: ResourcesConfig, target: float, health: HealthConfig
) -> dict[str, Any]:
    """The settings that every deployment has from the first deploy on.

    Serve may restart an application if a key appears later; hence the scaling policy without a token target.
    """
    return {
        "autoscaling_config": {
            **autoscaling.model_dump(mode="json", exclude_none=True, exclude={"target_tokens_in_flight"}),
            "target_ongoing_requests": target,
            "policy": {"policy_function": POLICY},
        },
        **resource_options(resources),
        "health_check_period_s": health.period_s,
        "health_check_timeout_s": health.timeout_s,
    }
