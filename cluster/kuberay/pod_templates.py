"""Pod templates for the head and for worker groups; they pass the `restricted` pod security profile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.config.cluster_config import ClusterConfig
from cluster.config.kubernetes import (
    GIB,
    HeadPodConfig,
    KubernetesConfig,
    PodPlacementConfig,
    SecretKeyConfig,
)
from cluster.config.model_source import HubModelConfig, UriAdapterConfig, UriModelConfig
from cluster.haproxy_command import NAME, PATH_VARIABLE
from cluster.kuberay.worker_groups import WorkerGroup
from cluster.ray_env import OBJECT_STORE_BYTES, RAY_ENV, RAY_WORKER_ENV
from experts.cache import CACHE_VARIABLE

MANAGED_BY = "app.kubernetes.io/managed-by"
PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
SCRIPTS = "/opt/etr/bin"  # in the image: k8s/Dockerfile
# Between the last answer and the end of the pod, for replicas and the proxy to stop.
GRACE_MARGIN_S = 60
CACHE_PATH = "/fetched-models"  # for `uri:` models
SHM_BYTES = GIB
TMP_BYTES = 20 * GIB  # for Ray's logs, and for objects that do not fit into shared memory
_RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def head_template(config: ClusterConfig) -> dict[str, Any]:
    """The head only schedules: no request passes through it, so it needs neither models nor a drain."""
    block, head = _block(config), _block(config).head
    container = {
        "name": "ray-head",
        **_image(block),
        "ports": _ports(gcs_server=6379, dashboard=8265, serve=config.http.port)
        + _ports(metrics=8080, as_metrics=44217, dash_metrics=44227),
        "env": _environment(config),
        "resources": _resources(head.num_cpus, head.memory_bytes),
        "securityContext": _RESTRICTED,
        "volumeMounts": _mounts(),
    }
    spec = {**_pod(block, head), "containers": [container], "volumes": _volumes()}
    return {"metadata": {"labels": _labels(config, "head")}, "spec": spec}


def worker_template(config: ClusterConfig, group: WorkerGroup) -> dict[str, Any]:
    """A pod that, before it ends, waits until its replicas run elsewhere and their last answers are sent.

    KubeRay adds the liveness probe, which asks the raylet; a restart would not repair a model. The readiness
    probe asks the router through the pod's own proxy. A pod that serves nothing yet has no proxy and gets no
    requests, but Ray reaches its replicas.
    """
    block, grace_s = _block(config), termination_grace_s(config)
    container = {
        "name": "ray-worker",
        **_image(block),
        "ports": _ports(metrics=8080, serve=config.http.port),
        "env": _environment(config, RAY_WORKER_ENV),
        "resources": _resources(group.num_cpus, group.memory_bytes, {block.gpu_resource: group.num_gpus}),
        "securityContext": _RESTRICTED,
        "readinessProbe": {
            "exec": {"command": [f"{SCRIPTS}/ready", str(config.http.port)]},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        "lifecycle": {
            "preStop": {"exec": {"command": [f"{SCRIPTS}/drain", str(grace_s - GRACE_MARGIN_S // 2)]}}
        },
        "volumeMounts": _mounts() + _model_mounts(config),
    }
    spec = {
        "terminationGracePeriodSeconds": grace_s,
        "automountServiceAccountToken": False,
        **_pod(block, group.settings or PodPlacementConfig()),
        "topologySpreadConstraints": [_over_machines(_labels(config, group.name))],
        "containers": [container],
        "volumes": _volumes() + _model_volumes(config),
    }
    return {"metadata": {"labels": _labels(config, group.name)}, "spec": spec}


def termination_grace_s(config: ClusterConfig) -> int:
    """The setting, or else a minute longer than the longest answer that `routing.deadlines` allow."""
    return _block(config).termination_grace_s or least_grace_s(config)


def least_grace_s(config: ClusterConfig) -> int:
    return math.ceil(config.routing.deadlines.longest_s) + GRACE_MARGIN_S


def service_name(config: ClusterConfig) -> str:
    """The RayService's name: the setting, or the cluster's name in characters that Kubernetes accepts."""
    return _block(config).service or config.name.lower().replace("_", "-").replace(".", "-")


def quantity(num_bytes: int) -> str:
    """The amount as Kubernetes writes it, in the largest unit that divides it."""
    for unit, size in (("Gi", GIB), ("Mi", 2**20)):
        if num_bytes % size == 0:
            return f"{num_bytes // size}{unit}"
    return str(num_bytes)


def _block(config: ClusterConfig) -> KubernetesConfig:
    assert config.kubernetes is not None
    return config.kubernetes


def _labels(config: ClusterConfig, component: str) -> dict[str, str]:
    return {MANAGED_BY: "etr", PART_OF: service_name(config), COMPONENT: component}


def _image(block: KubernetesConfig) -> dict[str, str]:
    return {"image": block.image, "imagePullPolicy": block.image_pull_policy}


def _ports(**ports: int) -> list[dict[str, Any]]:
    return [{"name": name.replace("_", "-"), "containerPort": port} for name, port in ports.items()]


def _environment(config: ClusterConfig, own: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The same on head and workers, because Serve's processes must agree on them, and what is a pod's own."""
    block = _block(config)
    fixed = {
        **RAY_ENV,
        **(own or {}),
        PATH_VARIABLE: f"{SCRIPTS}/{NAME}",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": "/tmp/huggingface",
        **dict(_caches(config)),
    }
    plain = [{"name": name, "value": value} for name, value in sorted({**fixed, **block.env}.items())]
    secret = [{"name": name, "valueFrom": _secret(key)} for name, key in sorted(block.secret_env.items())]
    return plain + secret


def _caches(config: ClusterConfig) -> Iterator[tuple[str, str]]:
    """The volume holds models by hub id as `hf download` stores them."""
    volume = _block(config).models
    if volume and _any_model(config, HubModelConfig):
        yield "HF_HUB_CACHE", f"{volume.mount_path}/hub"
    if _fetches(config):
        yield CACHE_VARIABLE, CACHE_PATH


def _any_model(config: ClusterConfig, kind: type[HubModelConfig] | type[UriModelConfig]) -> bool:
    return any(isinstance(block.model, kind) for block in config.loaded_models)


def _fetches(config: ClusterConfig) -> bool:
    """Whether a replica stores fetched files, or merged weights, in its cache."""
    adapters = (expert.adapter for expert in config.adapter_experts.values())
    return (
        _any_model(config, UriModelConfig)
        or any(isinstance(adapter, UriAdapterConfig) for adapter in adapters)
        or any(block.model.adapter is not None for block in config.loaded_models)
    )


def _secret(key: SecretKeyConfig) -> dict[str, Any]:
    return {"secretKeyRef": {"name": key.secret, "key": key.key}}


def _resources(num_cpus: int, memory_bytes: int, devices: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Requests equal limits, so that Kubernetes never evicts a pod for memory that it was promised."""
    amounts = {"cpu": str(num_cpus), "memory": quantity(memory_bytes)}
    amounts |= {name: str(num) for name, num in (devices or {}).items() if num}
    return {"requests": amounts, "limits": dict(amounts)}


def _pod(block: KubernetesConfig, placement: HeadPodConfig | PodPlacementConfig) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 100,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    }
    if block.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in block.image_pull_secrets]
    if placement.node_selector:
        spec["nodeSelector"] = dict(sorted(placement.node_selector.items()))
    if placement.tolerations:
        spec["tolerations"] = [
            toleration.model_dump(exclude_none=True) for toleration in placement.tolerations
        ]
    return spec


def _over_machines(labels: dict[str, str]) -> dict[str, Any]:
    """Spread the pods of a group over machines if possible."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {key: labels[key] for key in (PART_OF, COMPONENT)}},
    }


def _mounts() -> list[dict[str, Any]]:
    return [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shared-mem", "mountPath": "/dev/shm"}]


def _volumes() -> list[dict[str, Any]]:
    assert SHM_BYTES > OBJECT_STORE_BYTES
    shared = {"medium": "Memory", "sizeLimit": quantity(SHM_BYTES)}
    return [
        {"name": "tmp", "emptyDir": {"sizeLimit": quantity(TMP_BYTES)}},
        {"name": "shared-mem", "emptyDir": shared},
    ]


def _model_mounts(config: ClusterConfig) -> list[dict[str, Any]]:
    volume, mounts = _block(config).models, list[dict[str, Any]]()
    if volume:
        where = {"subPath": volume.sub_path} if volume.sub_path else {}
        mounts.append({"name": "models", "mountPath": volume.mount_path, **where, "readOnly": True})
    if _fetches(config):
        mounts.append({"name": "fetched-models", "mountPath": CACHE_PATH})
    return mounts


def _model_volumes(config: ClusterConfig) -> list[dict[str, Any]]:
    volume, volumes = _block(config).models, list[dict[str, Any]]()
    if volume:
        claim = {"claimName": volume.claim, "readOnly": True}
        volumes.append({"name": "models", "persistentVolumeClaim": claim})
    if _fetches(config):
        volumes.append({"name": "fetched-models", "emptyDir": {}})
    return volumes
