"""Worker groups: one per shape of replica, so that the autoscaler can add the pod that one needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.config.cluster_config import ClusterConfig
from cluster.config.kubernetes import GIB, KubernetesConfig, WorkerPodsConfig
from cluster.errors import ConfigError
from cluster.kuberay.replica_shape import ReplicaShape
from cluster.serve.app_names import META_APP, ROUTER_APP, embedder_app, expert_app, pool_app
from cluster.serve.replica_resources import ACCELERATOR_PREFIX
from router.table import META

# Pods of small replicas are small: a lost pod then takes few replicas, and most machines have room for one.
CPUS_PER_POD = 2
MAX_REPLICAS_PER_POD = 16
# Room in a GPU pod for replicas without a GPU: Ray prefers other pods for them, but does not wait for one.
SPARE_CPUS = 2
# What Ray, the proxy and shared memory use in a pod before a model is loaded.
POD_MEMORY_BYTES = 3 * GIB
CPU_REPLICA_MEMORY_BYTES = 2 * GIB
GPU_REPLICA_MEMORY_BYTES = 24 * GIB


@dataclass(frozen=True)
class Member:
    """A model, a pool or the router, with the replicas that its deployment may have."""

    name: str
    shape: ReplicaShape
    min_replicas: int
    max_replicas: int
    max_per_pod: int | None

    @classmethod
    def of(cls, name: str, deployment: Mapping[str, Any]) -> Member:
        scaling = deployment["autoscaling_config"]
        shape = ReplicaShape.of(deployment)
        limit = deployment.get("max_replicas_per_node")
        return cls(name, shape, scaling["min_replicas"], scaling["max_replicas"], limit)


@dataclass(frozen=True)
class WorkerGroup:
    """Equal pods for all replicas of one shape.

    `settings`: the entry of `kubernetes.pods` for these pods, if it has one. `num_fits_any_pod`: replicas of
    other groups that Ray may place here, because they need only CPUs.
    """

    shape: ReplicaShape
    members: tuple[Member, ...]
    settings: WorkerPodsConfig | None
    num_fits_any_pod: int

    @property
    def name(self) -> str:
        """From the shape alone: if a model gave its name, replacing the model would replace the group."""
        return self.shape.label

    @cached_property
    def replicas_per_pod(self) -> int:
        if self.settings and self.settings.replicas_per_pod:
            return self.settings.replicas_per_pod
        if self.shape.num_gpus:
            return max(1, math.floor(1 / self.shape.num_gpus))
        if not self.shape.num_cpus:
            return 1
        return min(MAX_REPLICAS_PER_POD, max(1, math.floor(CPUS_PER_POD / self.shape.num_cpus)))

    @property
    def min_pods(self) -> int:
        return self._num_pods({member: member.min_replicas for member in self.members})

    @property
    def max_pods(self) -> int:
        return (self.settings and self.settings.max_pods) or self.num_pods_wanted

    @property
    def num_pods_wanted(self) -> int:
        """Pods for all replicas that the file allows, even if each replica that fits any pod takes one.

        GPU pods are too expensive for that: they have spare CPUs for such replicas instead.
        """
        needed = self._num_pods({member: member.max_replicas for member in self.members})
        return needed if self.shape.num_gpus else needed + self.num_fits_any_pod

    @property
    def num_cpus(self) -> int:
        """CPUs of one pod, as Kubernetes schedules it."""
        if self.settings and self.settings.num_cpus:
            return self.settings.num_cpus
        return max(self.num_ray_cpus, self.num_gpus * SPARE_CPUS, 1)

    @property
    def num_ray_cpus(self) -> int:
        """CPUs of one pod, as Ray counts them.

        0 if no replica of the group reserves CPUs, so that Ray places no replica without a GPU beside them.
        """
        reserved = math.ceil(self.replicas_per_pod * self.shape.num_cpus)
        if not reserved:
            return 0
        if self.settings and self.settings.num_cpus:
            return self.settings.num_cpus
        return reserved + (SPARE_CPUS if self.shape.num_gpus else 0)

    @property
    def num_gpus(self) -> int:
        return math.ceil(self.replicas_per_pod * self.shape.num_gpus)

    @property
    def memory_bytes(self) -> int:
        if self.settings and self.settings.memory_bytes:
            return self.settings.memory_bytes
        usual = GPU_REPLICA_MEMORY_BYTES if self.shape.num_gpus else CPU_REPLICA_MEMORY_BYTES
        return POD_MEMORY_BYTES + self.replicas_per_pod * (self.shape.memory_bytes or usual)

    @property
    def ray_resources(self) -> dict[str, str]:
        """What Ray may hand out in one pod, in whole numbers: the autoscaler rounds up."""
        amounts: dict[str, float] = {"CPU": self.num_ray_cpus}
        if self.num_gpus:
            amounts["GPU"] = self.num_gpus
        if self.shape.memory_bytes:
            amounts["memory"] = self.replicas_per_pod * self.shape.memory_bytes
        if self.shape.accelerator_type:
            # Ray detects it on a running node; the autoscaler must know it before there is one.
            amounts[f"{ACCELERATOR_PREFIX}{self.shape.accelerator_type}"] = 1
        for name, amount in self.shape.custom:
            amounts[name] = self.replicas_per_pod * amount
        return {name: str(math.ceil(amount)) for name, amount in amounts.items()}

    def _num_pods(self, num_replicas: Mapping[Member, int]) -> int:
        packed = math.ceil(sum(num_replicas.values()) / self.replicas_per_pod)
        spread = [
            math.ceil(n / member.max_per_pod) for member, n in num_replicas.items() if member.max_per_pod
        ]
        return max(packed, *spread, 0)


def worker_groups(config: ClusterConfig, deploy: Mapping[str, Any]) -> list[WorkerGroup]:
    """The groups for a deploy config: router, meta, pools, embedders, then the experts in file order.

    KubeRay adds a group at the end to the running cluster, but starts a new cluster for one in between. So an
    expert that is added at the end of cluster.yaml may need a group of its own.

    Raises:
        ConfigError: two entries of `kubernetes.pods` are for the same pods, or a setting has no effect.
    """
    block = config.kubernetes
    assert block is not None
    members: dict[ReplicaShape, list[Member]] = {}
    for member in _members(config, deploy):
        members.setdefault(member.shape, []).append(member)
    groups: list[WorkerGroup] = []
    problems = list(_unused(block, members))
    for shape, found in members.items():
        chosen = [index for index, pods in enumerate(block.pods) if _chooses(pods, shape, found)]
        settings = block.pods[chosen[0]] if chosen else None
        groups.append(WorkerGroup(shape, tuple(found), settings, _num_fits_any_pod(shape, members)))
        problems += _unplaceable(groups[-1])
        if len(chosen) > 1:
            problems.append(_two_settings(chosen, found))
        elif chosen:
            problems += [f"kubernetes.pods.{chosen[0]}.{problem}" for problem in _wrong_settings(groups[-1])]
    if problems:
        raise ConfigError([f"{config.source}: {problem}" for problem in problems])
    return groups


def _members(config: ClusterConfig, deploy: Mapping[str, Any]) -> Iterator[Member]:
    apps = {app["name"]: app["deployments"][0] for app in deploy["applications"]}
    yield Member.of(ROUTER_APP, apps[ROUTER_APP])
    yield Member.of(META, apps[META_APP])
    for name in config.pools:
        yield Member.of(name, apps[pool_app(name)])
    yield from (Member.of(name, apps[embedder_app(name)]) for name in config.embeddings)
    for name in config.experts:
        if name in config.replicated_experts:
            yield Member.of(name, apps[expert_app(name)])


def _num_fits_any_pod(shape: ReplicaShape, members: Mapping[ReplicaShape, Sequence[Member]]) -> int:
    others = [
        member
        for other, found in members.items()
        if other != shape and other.fits_any_pod
        for member in found
    ]
    return sum(member.max_replicas for member in others)


def _chooses(pods: WorkerPodsConfig, shape: ReplicaShape, members: Sequence[Member]) -> bool:
    if pods.models is None:
        return shape.accelerator_type == pods.accelerator_type
    return any(member.name in pods.models for member in members)


def _unused(block: KubernetesConfig, members: Mapping[ReplicaShape, Sequence[Member]]) -> Iterator[str]:
    """Settings for models or GPUs that the file does not have."""
    names = {member.name for found in members.values() for member in found}
    accelerators = {shape.accelerator_type for shape in members}
    for index, pods in enumerate(block.pods):
        for name in pods.models or ():
            if name not in names:
                yield f"kubernetes.pods.{index}.models: there is no model '{name}'; remove it or correct it"
        if pods.accelerator_type and pods.accelerator_type not in accelerators:
            yield (
                f"kubernetes.pods.{index}.accelerator_type: no model asks for '{pods.accelerator_type}'; set "
                "resources.accelerator_type of a model or remove this entry"
            )


def _unplaceable(group: WorkerGroup) -> Iterator[str]:
    names = ", ".join(member.name for member in group.members)
    for key, value in group.shape.node_labels:
        if value.startswith(("!", "in(")):
            yield f"resources.labels.{key} of {names}: '{value}' is not a valid pod label; give one value"


def _two_settings(chosen: Sequence[int], members: Sequence[Member]) -> str:
    entries = " and ".join(f"pods.{index}" for index in chosen)
    names = ", ".join(member.name for member in members)
    return (
        f"kubernetes: {entries} both choose the pods of {names}. These models reserve the same, so they "
        "share pods; merge the entries, or give the models different resources.labels or custom"
    )


def _wrong_settings(group: WorkerGroup) -> Iterator[str]:
    """Settings that have no effect, or that leave no room for a replica."""
    settings, wanted = group.settings, group.num_pods_wanted
    assert settings is not None
    if settings.max_pods and settings.max_pods < group.min_pods:
        yield f"max_pods: {settings.max_pods} is below the {group.min_pods} that min_replicas need; raise it"
    elif settings.max_pods and settings.max_pods >= wanted:
        yield f"max_pods: {settings.max_pods} has no effect, max_replicas need {wanted}; lower or remove it"
    needed = math.ceil(group.replicas_per_pod * group.shape.num_cpus)
    if settings.num_cpus and settings.num_cpus < needed:
        yield f"num_cpus: {settings.num_cpus} is below the {needed} its replicas reserve; raise it"
    reserved = group.replicas_per_pod * group.shape.memory_bytes
    if settings.memory_bytes and settings.memory_bytes < reserved:
        yield f"memory_bytes: {settings.memory_bytes} is below the {reserved} its replicas reserve; raise it"
