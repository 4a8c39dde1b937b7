"""cluster.yaml → the route table of the routers, as Serve delivers it to them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from cluster.config.api_keys import config_keys
from cluster.config.cluster_config import ClusterConfig
from cluster.config.expert import AdapterExpertConfig, AnyServingExpertConfig, modalities_of, read_media
from cluster.config.replicated_model import ReplicatedConfig
from cluster.errors import ConfigError
from cluster.serve.app_names import META_APP, embedder_app, expert_app, pool_app
from cluster.serve.telemetry import tracing_settings
from router.media_rules import Modality
from router.table import META


def route_table(config: ClusterConfig, table_version: int) -> dict[str, Any]:
    """The fields of `router.table.RouteTable`. Raises ConfigError: an API key cannot be used."""
    return {
        "table_version": table_version,
        "name": config.name,
        "meta": {**_modalities(config.meta.reads), **_entry(META_APP, config.meta)},
        "experts": {
            name: {
                "cold_start": block.cold_start,
                "on_unavailable": block.on_unavailable,
                **_modalities(modalities_of(block, config.pools)),
                **_expert_entry(config, name, block),
            }
            for name, block in sorted(config.experts.items())
        },
        **_embedders(config),
        **({"shadows": list(config.shadows)} if config.shadows else {}),
        **({"aliases": config.http.aliases} if config.http.aliases else {}),
        **_decision_log(config),
        **config.routing.rules(),
        "keys": [key.model_dump(mode="json") for key in config_keys(config)],
        "max_table_age_s": config.router.max_table_age_s,
        "limits": config.router.limits.model_dump(mode="json"),
        "cors_origins": config.http.cors_origins,
        "allow_chat_template": config.http.allow_chat_template,
        "page": config.http.page,
        **({"separate_caches": True} if config.http.separate_caches else {}),
        **({"media": config.http.media.model_dump(mode="json")} if reads_media(config) else {}),
        **tracing_settings(config),
    }


def reads_media(config: ClusterConfig) -> bool:
    """Whether any model reads more than text."""
    return read_media(config.meta, config.experts.values(), config.pools)


def require_pillow(config: ClusterConfig) -> None:
    """If routers run on this machine, they check pictures with the Pillow that is installed here.

    Raises:
        ConfigError: it is not.
    """
    if reads_media(config) and config.models_are_here and find_spec("PIL") is None:
        problem = (
            "pictures need Pillow, which is not installed here; install expert-token-routing[images], or set "
            "modalities: [text] for every model"
        )
        raise ConfigError([f"{config.source}: modalities: {problem}"])


def _modalities(modalities: list[Modality]) -> dict[str, Any]:
    """What is not the default of the table."""
    return {"modalities": modalities} if len(modalities) > 1 else {}


def _decision_log(config: ClusterConfig) -> dict[str, Any]:
    log = config.router.decision_log
    return {} if log is None else {"decision_log": log.model_dump(mode="json")}


def _embedders(config: ClusterConfig) -> dict[str, Any]:
    # No other model can take the place of one.
    entries = {
        name: {"on_unavailable": "wait", **_entry(embedder_app(name), block)}
        for name, block in config.embeddings.items()
    }
    return {"embedders": entries} if entries else {}


def _expert_entry(config: ClusterConfig, name: str, block: AnyServingExpertConfig) -> dict[str, Any]:
    if not isinstance(block, AdapterExpertConfig):
        return _entry(expert_app(name), block)
    pool, base = block.adapter.pool, config.base_of(block)
    if pool == META:
        # The meta could not take its place: it has the same replicas.
        return {**_entry(META_APP, base), "adapter": name, "on_unavailable": "wait"}
    return {**_entry(pool_app(pool), base), "adapter": name}


def _entry(app: str, block: ReplicatedConfig) -> dict[str, Any]:
    window = {} if block.window is None else {"window": block.window}
    return {
        "app": app,
        **window,
        "scales_to_zero": block.autoscaling.min_replicas == 0,
        **block.deadlines.model_dump(mode="json"),
        "max_streams": block.max_streams,
    }
