"""cluster.yaml → a RayService for KubeRay 1.7: equal input, equal bytes. Imports Ray."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import yaml

from cluster.addresses import WILDCARDS, is_loopback
from cluster.config.cluster_config import ClusterConfig
from cluster.config.kubernetes import IncrementalUpgradeConfig, KubernetesConfig
from cluster.config.model_source import LocalModelConfig
from cluster.errors import ConfigError
from cluster.kuberay.lint import require_clean
from cluster.kuberay.pod_templates import (
    MANAGED_BY,
    head_template,
    least_grace_s,
    service_name,
    worker_template,
)
from cluster.kuberay.worker_groups import WorkerGroup, worker_groups
from cluster.ray_env import OBJECT_STORE_BYTES
from cluster.serve.deploy_config import build_serve_config

EVERY_INTERFACE = "0.0.0.0"
_LINE_WIDTH = 110
# Go's YAML reads `y`, `08` or `1e3` as a bool or a number, where PyYAML reads a string. A string that begins
# like this, and is not one of these words, is a string to both.
_PLAIN = re.compile(r"[A-Za-z/]")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def render(config: ClusterConfig) -> str:
    """The manifest of `build_rayservice` as YAML. Raises ConfigError."""
    return rayservice_text(build_rayservice(config))


def build_rayservice(config: ClusterConfig, *, table_version: int = 1) -> dict[str, Any]:
    """The RayService that serves `config`, read by `load_config(…, models_required=False)`. It is linted.

    Its `serveConfigV2` is the text of the deploy config that `etr apply` sends to a cluster. Worker groups
    have no `replicas`: the autoscaler sets them.

    Raises:
        ConfigError: the `kubernetes` block is missing, a setting in it cannot take effect, a token cannot be
            used, or `lint` finds a problem.
    """
    block = _required(config)
    config = _reachable(config)
    problems = [f"{config.source}: {problem}" for problem in _problems(config, block)]
    if problems:
        raise ConfigError(problems)
    deploy = build_serve_config(config, table_version=table_version)
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": _metadata(config, block),
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            # How long an answer that began on the old cluster may take.
            "rayClusterDeletionDelaySeconds": least_grace_s(config),
            **_upgrade_strategy(block.incremental_upgrade),
            "serveConfigV2": serve_text(deploy),
            "rayClusterConfig": _ray_cluster(config, block, worker_groups(config, deploy)),
        },
    }
    require_clean(manifest, config.source)
    return manifest


def serve_text(deploy: dict[str, Any]) -> str:
    """A deploy config as the text in a RayService's `serveConfigV2`."""
    return _yaml(deploy)


def rayservice_text(manifest: dict[str, Any]) -> str:
    """The manifest as YAML that is readable too: text of several lines stays a block."""
    return _yaml(manifest)


def _yaml(data: Mapping[str, Any]) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=_LINE_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and quotes every string that kubectl or KubeRay could read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quote = None if _PLAIN.match(text) and text.lower() not in _WORDS else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else quote)


_Dumper.add_representer(str, _represent_text)


def _required(config: ClusterConfig) -> KubernetesConfig:
    if config.kubernetes is None:
        raise ConfigError(
            [f"{config.source}: kubernetes: is required for Kubernetes; add it with the image to run"]
        )
    return config.kubernetes


def _reachable(config: ClusterConfig) -> ClusterConfig:
    """The config with a loopback address replaced: other pods could not reach it."""
    host = config.http.host
    if host in WILDCARDS:
        return config
    if not is_loopback(host):
        raise ConfigError(
            [f"{config.source}: http.host: a pod need not have the address {host}; use 0.0.0.0"]
        )
    changed = config.model_copy(update={"http": config.http.model_copy(update={"host": EVERY_INTERFACE})})
    changed._source = config.source
    return changed


def _metadata(config: ClusterConfig, block: KubernetesConfig) -> dict[str, Any]:
    return {
        "name": service_name(config),
        "namespace": block.namespace,
        "labels": {MANAGED_BY: "etr"},
        "annotations": {"ray.io/initializing-timeout": f"{block.initializing_timeout_s}s"},
    }


def _upgrade_strategy(upgrade: IncrementalUpgradeConfig | None) -> dict[str, Any]:
    if upgrade is None:
        return {}
    options = {
        "gatewayClassName": upgrade.gateway_class,
        "maxSurgePercent": upgrade.max_surge_percent,
        "stepSizePercent": upgrade.step_percent,
        "intervalSeconds": upgrade.interval_s,
    }
    return {
        "upgradeStrategy": {
            "type": "NewClusterWithIncrementalUpgrade",
            "clusterUpgradeOptions": options,
        }
    }


def _problems(config: ClusterConfig, block: KubernetesConfig) -> Iterator[str]:
    least_s, given_s = least_grace_s(config), block.termination_grace_s
    if given_s is not None and given_s < least_s:
        yield (
            f"kubernetes.termination_grace_s: {given_s} would cut off answers, which may take total_s + "
            f"wake_s of routing.deadlines; use {least_s} or more"
        )
    if block.models is None:
        return
    root = block.models.mount_path
    models = [block.model for block in config.loaded_models]
    if all(isinstance(model, LocalModelConfig) and not model.path.is_relative_to(root) for model in models):
        yield f"kubernetes.models: no model is below {root}; remove it or correct the paths"


def _ray_cluster(config: ClusterConfig, block: KubernetesConfig, groups: list[WorkerGroup]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": block.idle_timeout_s,
            "imagePullPolicy": block.image_pull_policy,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        },
        "authOptions": {"mode": "token"},
    }
    if block.redis:
        spec["gcsFaultToleranceOptions"] = _fault_tolerance(block)
    spec["headGroupSpec"] = {
        "rayStartParams": {
            "num-cpus": "0",  # so that Ray places no replica on the head
            "dashboard-host": EVERY_INTERFACE,
            "object-store-memory": str(OBJECT_STORE_BYTES),
        },
        "template": head_template(config),
    }
    spec["workerGroupSpecs"] = [_worker_group(config, group) for group in groups]
    return spec


def _worker_group(config: ClusterConfig, group: WorkerGroup) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "groupName": group.name,
        "minReplicas": group.min_pods,
        "maxReplicas": group.max_pods,
        "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES)},
        "resources": group.ray_resources,
    }
    if group.shape.node_labels:
        spec["labels"] = dict(group.shape.node_labels)
    return {**spec, "template": worker_template(config, group)}


def _fault_tolerance(block: KubernetesConfig) -> dict[str, Any]:
    assert block.redis is not None
    options: dict[str, Any] = {"redisAddress": block.redis.address}
    if block.redis.password:
        key = block.redis.password
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": {"name": key.secret, "key": key.key}}}
    return options
