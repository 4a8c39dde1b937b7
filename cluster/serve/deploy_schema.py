"""Checks a deploy config before Serve gets it: Serve itself ignores unknown keys. Imports Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from cluster.errors import ConfigError
from deployments.apps import EmbedderArgs, ModelArgs, RemoteArgs, RouterArgs
from deployments.model import ModelSettings
from router.table import RouteTable

BUILDER_ARGS: Mapping[str, type[BaseModel]] = {
    "deployments.apps:build_model": ModelArgs,
    "deployments.apps:build_embedder": EmbedderArgs,
    "deployments.apps:build_remote": RemoteArgs,
    "deployments.apps:build_remote_embedder": RemoteArgs,
    "deployments.apps:build_router": RouterArgs,
}


def check_deploy_config(deploy: Mapping[str, Any], source: Path) -> None:
    """Check a deploy config against Serve's own models, the builders' arguments and our `user_config` models.

    Raises:
        ConfigError: one line per problem, with `source` and the path of the value in the deploy config.
    """
    problems = [f"{where}: Serve has no such key; remove it" for where in unknown_keys(deploy)]
    problems += _problems("", ServeDeploySchema, deploy)
    for app in deploy["applications"]:
        problems += _problems(f"{app['name']}.args", BUILDER_ARGS[app["import_path"]], app["args"])
        for deployment in app["deployments"]:
            where = f"{app['name']}.{deployment['name']}"
            problems += _problems(
                f"{where}.autoscaling_config", AutoscalingConfig, deployment["autoscaling_config"]
            )
            settings = ModelSettings if app["route_prefix"] is None else RouteTable
            problems += _problems(f"{where}.user_config", settings, deployment["user_config"])
    if problems:
        raise ConfigError([f"{source}: {problem}" for problem in problems])


def unknown_keys(deploy: Mapping[str, Any]) -> Iterator[str]:
    """Dotted paths of the keys that Serve does not have."""
    yield from _unknown("", ServeDeploySchema, deploy)
    yield from _unknown("http_options.", HTTPOptionsSchema, deploy["http_options"])
    for app in deploy["applications"]:
        yield from _unknown(f"{app['name']}.", ServeApplicationSchema, app)
        for deployment in app["deployments"]:
            where = f"{app['name']}.{deployment['name']}."
            yield from _unknown(where, DeploymentSchema, deployment)
            blocks: dict[str, type[BaseModel]] = {
                "autoscaling_config": AutoscalingConfig,
                "ray_actor_options": RayActorOptionsSchema,
            }
            for key, model in blocks.items():
                yield from _unknown(f"{where}{key}.", model, deployment.get(key, {}))
            policy = deployment.get("autoscaling_config", {}).get("policy", {})
            yield from _unknown(f"{where}autoscaling_config.policy.", AutoscalingPolicy, policy)


def _unknown(where: str, model: type[BaseModel], block: Mapping[str, Any]) -> Iterator[str]:
    for key in block:
        if key not in model.model_fields:
            yield f"{where}{key}"


def _problems(where: str, model: type[BaseModel], block: Mapping[str, Any]) -> list[str]:
    try:
        model.model_validate(block)
    except ValidationError as error:
        return [
            f"{'.'.join(filter(None, [where, *map(str, details['loc'])]))}: {details['msg']}; correct it"
            for details in error.errors(include_url=False)
        ]
    return []
