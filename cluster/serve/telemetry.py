"""Logs and traces of replicas, as fields of their Serve deployments."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from cluster.config.cluster_config import ClusterConfig
from cluster.errors import ConfigError

EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def logging_options(config: ClusterConfig) -> dict[str, Any]:
    """Fields of every deployment, which Serve changes without a restart."""
    return {"logging_config": {"encoding": "JSON"}} if config.log_format == "json" else {}


def tracing_settings(config: ClusterConfig) -> dict[str, Any]:
    """A part of the `user_config` of every deployment, so that a change restarts nothing."""
    return {} if config.tracing is None else {"tracing": config.tracing.model_dump(mode="json")}


def require_otel(config: ClusterConfig) -> None:
    """If replicas run on this machine, they send traces with the packages that are installed here.

    Raises:
        ConfigError: these packages are missing.
    """
    if config.tracing is None or not config.models_are_here:
        return
    try:
        is_installed = find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # not even the packages around it
        is_installed = False
    if not is_installed:
        problem = "needs OpenTelemetry, which is not installed here; install expert-token-routing[otel]"
        raise ConfigError([f"{config.source}: tracing: {problem}"])
