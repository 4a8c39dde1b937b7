"""The `kubernetes` block of cluster.yaml: what `etr render k8s` must know about the Kubernetes cluster."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cluster.config.base import StrictConfig

GIB = 2**30
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
# KubeRay appends to the name of a RayService, so the name itself may have at most 47 characters.
ServiceName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]
Namespace = Annotated[str, Field(pattern=rf"^{_DNS_LABEL}$")]
ObjectName = Annotated[str, Field(pattern=rf"^{_DNS_LABEL}(\.{_DNS_LABEL})*$", max_length=253)]
SecretKeyName = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
LabelKey = Annotated[
    str, Field(pattern=r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?$", max_length=253)
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?$")]
MountPath = Annotated[str, Field(pattern=r"^/[^:\s]*[^:\s/]$")]
# Variables that the manifest sets itself, and variables that a serving pod must not have.
_OWN_VARIABLES = ("RAY_", "REDIS_", "ETR_", "HF_HUB_", "HF_HOME", "PYTHONPATH")
_DOWNLOAD_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def _allowed_variable(name: str) -> str:
    if name in _DOWNLOAD_TOKENS:
        raise ValueError(f"{name} must not be in serving pods; give it to the job that fills the volume")
    if name.startswith(_OWN_VARIABLES):
        raise ValueError(f"{name} is set by the manifest itself; remove it")
    return name


VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_allowed_variable)]


class SecretKeyConfig(StrictConfig, title="one value of a Secret"):
    """One value of a Secret, which must exist already."""

    secret: ObjectName = Field(description="Name of the Secret.")
    key: SecretKeyName = Field(description="Key of the value in the Secret.")


class ModelsVolumeConfig(StrictConfig, title="kubernetes.models"):
    """A PersistentVolumeClaim with the checkpoints. It is mounted read-only in every worker pod."""

    claim: ObjectName = Field(description="Name of the PersistentVolumeClaim.")
    mount_path: MountPath = Field(
        "/models", description="Where pods mount it. `model.path` of a model lies below it."
    )
    sub_path: str | None = Field(
        None, pattern=r"^[^/].*$", description="Folder of the volume to mount. By default its root."
    )


class RedisConfig(StrictConfig, title="kubernetes.redis"):
    """Redis or Valkey, in which Ray's head keeps its tables so that a new head finds them."""

    address: str = Field(
        pattern=r"^(rediss?://)?[A-Za-z0-9][A-Za-z0-9.-]*:[0-9]{1,5}$",
        description="`host:port`, with `rediss://` before it for TLS.",
    )
    password: SecretKeyConfig | None = Field(
        None, description="Secret with its password. By default no password."
    )


class TolerationConfig(StrictConfig, title="toleration"):
    """A taint of nodes that pods tolerate, with the keys and defaults of Kubernetes."""

    key: LabelKey | None = Field(None, description="Key of the taint. By default every key.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="How the taint is compared.")
    value: LabelValue | None = Field(None, description="Value of the taint, for `operator: Equal`.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint. By default every effect."
    )

    @model_validator(mode="after")
    def _kubernetes_accepts_it(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value has no effect with operator: Exists; remove it")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key is required with operator: Equal; add it or use operator: Exists")
        return self


class PodPlacementConfig(StrictConfig):
    """The nodes that pods may run on."""

    node_selector: dict[LabelKey, LabelValue] = Field({}, description="Labels that a node must have.")
    tolerations: list[TolerationConfig] = Field([], description="Taints of nodes that the pods tolerate.")


class HeadPodConfig(PodPlacementConfig, title="kubernetes.head"):
    """The pod of Ray's head. It schedules replicas and serves no requests."""

    num_cpus: int = Field(2, ge=1, description="CPUs of the pod.")
    memory_bytes: int = Field(8 * GIB, ge=2 * GIB, description="Bytes of memory of the pod.")


class WorkerPodsConfig(PodPlacementConfig, title="kubernetes.pods"):
    """Settings for the pods of some models: either of the `models` named, or of all with one
    `accelerator_type`."""

    models: list[str] | None = Field(
        None,
        min_length=1,
        description="Names of the models: `meta`, `router`, an expert's or a pool's. Models with one entry "
        "share pods.",
    )
    accelerator_type: str | None = Field(
        None, min_length=1, description="Every model with this `resources.accelerator_type`."
    )
    replicas_per_pod: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Replicas that fit into one pod. By default 1, or as many as share a GPU.",
    )
    max_pods: int | None = Field(
        None,
        ge=1,
        description="Maximum number of pods. By default as many as the models' `max_replicas` need.",
    )
    num_cpus: int | None = Field(
        None, ge=1, description="CPUs of one pod. By default what its replicas reserve."
    )
    memory_bytes: int | None = Field(
        None, ge=GIB, description="Bytes of memory of one pod. By default what its replicas need."
    )

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if (self.models is None) == (self.accelerator_type is None):
            raise ValueError("needs exactly one of models, accelerator_type; keep or add one of them")
        return self


class IncrementalUpgradeConfig(StrictConfig, title="kubernetes.incremental_upgrade"):
    """The new cluster grows while traffic moves to it step by step. With a `max_surge_percent` below 100, an
    upgrade needs fewer than twice the GPUs.

    Needs KubeRay's feature gate `RayServiceIncrementalUpgrade` and a Gateway API controller.
    """

    gateway_class: ObjectName = Field(
        description="The GatewayClass that splits the traffic between the two clusters."
    )
    max_surge_percent: int = Field(
        100, ge=1, le=100, description="By how much both clusters together may exceed the size of one."
    )
    step_percent: int = Field(
        10, ge=1, le=100, description="Share of the traffic that moves to the new cluster in one step."
    )
    interval_s: int = Field(30, ge=1, description="Seconds between steps.")

    @model_validator(mode="after")
    def _step_within_surge(self) -> Self:
        if self.step_percent > self.max_surge_percent:
            raise ValueError(
                f"step_percent: {self.step_percent} is above max_surge_percent, {self.max_surge_percent}; "
                "lower it, because the new cluster has no room for more"
            )
        return self


class KubernetesConfig(StrictConfig, title="kubernetes"):
    """One RayService, which `etr render k8s` writes."""

    image: str = Field(
        pattern=r"^[a-z0-9][\w./:@-]*$",
        description="Image of all pods. It has this package, and Ray in the version that this package needs.",
    )
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When a node pulls the image."
    )
    image_pull_secrets: list[ObjectName] = Field([], description="Secrets to pull the image with.")
    service: ServiceName | None = Field(
        None, description="Name of the RayService. By default the cluster's `name`."
    )
    namespace: Namespace = Field("default", description="Namespace of all objects.")
    gpu_resource: Literal["nvidia.com/gpu", "amd.com/gpu"] = Field(
        "nvidia.com/gpu", description="Kubernetes' name for one GPU."
    )
    models: ModelsVolumeConfig | None = Field(
        None, description="Volume with the checkpoints. By default the image has them."
    )
    env: dict[VariableName, str] = Field({}, description="Environment variables of all pods.")
    secret_env: dict[VariableName, SecretKeyConfig] = Field(
        {}, description="Environment variables of all pods whose values are in Secrets."
    )
    redis: RedisConfig | None = Field(
        None,
        description="Where Ray's head keeps its tables. By default in memory: if the head is lost, the "
        "cluster "
        "restarts.",
    )
    head: HeadPodConfig = Field(HeadPodConfig(), description="The pod of Ray's head.")
    pods: list[WorkerPodsConfig] = Field([], description="Settings for the pods of some models.")
    incremental_upgrade: IncrementalUpgradeConfig | None = Field(
        None,
        description="How a change that needs a new Ray cluster, such as a new image, is made. By default the "
        "new cluster starts at full size before it gets any traffic.",
    )
    idle_timeout_s: int = Field(
        300, ge=60, description="Seconds after which a pod that no replica needs is removed."
    )
    initializing_timeout_s: int = Field(
        3600, ge=60, description="Seconds that the cluster may take to start. After that, KubeRay gives up."
    )
    termination_grace_s: int | None = Field(
        None,
        ge=60,
        description="Seconds that a pod gets to finish its answers. By default `total_s` + `wake_s` of "
        "`routing.deadlines`, and a minute.",
    )

    @model_validator(mode="after")
    def _each_variable_once(self) -> Self:
        duplicates = sorted(set(self.env) & set(self.secret_env))
        if duplicates:
            raise ValueError(f"secret_env.{duplicates[0]}: is in env too; keep one of them")
        return self
