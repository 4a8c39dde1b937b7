"""cluster.yaml → a RayService for KubeRay 1.7: equal input, equal bytes. Imports Ray."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import yaml

from cluster.config import ClusterConfig
from cluster.errors import ConfigError
from cluster.hosts import WILDCARDS, is_loopback
from cluster.k8s_block import KubernetesBlock
from cluster.k8s_groups import WorkerGroup, worker_groups
from cluster.k8s_lint import require_clean
from cluster.k8s_pods import (
    MANAGED_BY,
    head_template,
    least_grace_s,
    service_name,
    worker_template,
)
from cluster.local import OBJECT_STORE_BYTES
from cluster.model_source import LocalModel
from cluster.serve_config import build_serve_config

EVERY_INTERFACE = "0.0.0.0"
_LINE_WIDTH = 110


def render(config: ClusterConfig) -> str:
    """The checked manifest of `build_rayservice` as YAML. Raises ConfigError."""
    manifest = build_rayservice(config)
    require_clean(manifest, config.source)
    return rayservice_text(manifest)


def build_rayservice(config: ClusterConfig, *, epoch: int = 1) -> dict[str, Any]:
    """The RayService that serves `config`, as `load_config(…, models_required=False)` reads it.

    Its `serveConfigV2` is the text of the deploy config that `etr apply` sends to a cluster. `replicas` of
    the worker groups are left out: they are the autoscaler's.

    Raises:
        ConfigError: the `kubernetes` block is missing, a setting in it cannot take effect, or a token is
            unusable.
    """
    block = _required(config)
    config = _reachable(config)
    problems = [f"{config.source}: {problem}" for problem in _problems(config, block)]
    if problems:
        raise ConfigError(problems)
    deploy = build_serve_config(config, epoch=epoch)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": service_name(config),
            "namespace": block.namespace,
            "labels": {MANAGED_BY: "etr"},
            "annotations": {"ray.io/initializing-timeout": f"{block.initializing_timeout_s}s"},
        },
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            # As long as an answer that began on the old cluster may last.
            "rayClusterDeletionDelaySeconds": least_grace_s(config),
            "serveConfigV2": serve_text(deploy),
            "rayClusterConfig": _ray_cluster(config, block, worker_groups(config, deploy)),
        },
    }


def serve_text(deploy: dict[str, Any]) -> str:
    """A deploy config as the text that a RayService carries."""
    return yaml.safe_dump(deploy, sort_keys=False, width=_LINE_WIDTH)


def rayservice_text(manifest: dict[str, Any]) -> str:
    """The manifest as YAML, for people too: text of several lines stays readable."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=_LINE_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Nothing twice by reference, and lists below their key, as Kubernetes manifests are written."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _required(config: ClusterConfig) -> KubernetesBlock:
    if config.kubernetes is None:
        raise ConfigError(
            [f"{config.source}: kubernetes: is required for Kubernetes; add it with the image to run"]
        )
    return config.kubernetes


def _reachable(config: ClusterConfig) -> ClusterConfig:
    """A file that serves a laptop too says 127.0.0.1; in a pod nobody else could ask there."""
    host = config.http.host
    if host in WILDCARDS:
        return config
    if not is_loopback(host):
        raise ConfigError([f"{config.source}: http.host: no pod is sure to have {host}; use 0.0.0.0"])
    changed = config.model_copy(update={"http": config.http.model_copy(update={"host": EVERY_INTERFACE})})
    changed._source = config.source
    return changed


def _problems(config: ClusterConfig, block: KubernetesBlock) -> Iterator[str]:
    least_s, given_s = least_grace_s(config), block.termination_grace_s
    if given_s is not None and given_s < least_s:
        yield (
            f"kubernetes.termination_grace_s: {given_s} would cut answers off, which may last "
            f"total_s + wake_s of routing.deadlines; use {least_s} or more"
        )
    if block.models is None:
        return
    root = block.models.mount_path
    models = [one.model for one in config.loaded_models]
    if all(isinstance(one, LocalModel) and not one.path.is_relative_to(root) for one in models):
        yield f"kubernetes.models: no model lies below {root}; remove it or correct the paths"


def _ray_cluster(config: ClusterConfig, block: KubernetesBlock, groups: list[WorkerGroup]) -> dict[str, Any]:
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
            "num-cpus": "0",  # so that nothing which serves requests is placed there
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


def _fault_tolerance(block: KubernetesBlock) -> dict[str, Any]:
    assert block.redis is not None
    options: dict[str, Any] = {"redisAddress": block.redis.address}
    if block.redis.password:
        key = block.redis.password
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": {"name": key.secret, "key": key.key}}}
    return options
