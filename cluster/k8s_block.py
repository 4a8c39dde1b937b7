"""The `kubernetes` block of cluster.yaml: what `etr render k8s` needs to know of where it all is to run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cluster.strict import Strict

GIB = 2**30
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
# KubeRay makes further names of a RayService's, so its own may have 47 characters at most.
ServiceName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]
Namespace = Annotated[str, Field(pattern=rf"^{_DNS_LABEL}$")]
ObjectName = Annotated[str, Field(pattern=rf"^{_DNS_LABEL}(\.{_DNS_LABEL})*$", max_length=253)]
SecretKeyName = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
LabelKey = Annotated[
    str, Field(pattern=r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?$", max_length=253)
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?$")]
MountPath = Annotated[str, Field(pattern=r"^/[^:\s]*[^:\s/]$")]
# What the manifest sets itself, and what must not be in a pod that serves.
_OWN_VARIABLES = ("RAY_", "REDIS_", "ETR_", "HF_HUB_", "HF_HOME", "PYTHONPATH")
_DOWNLOAD_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def _not_ours(name: str) -> str:
    if name in _DOWNLOAD_TOKENS:
        raise ValueError(f"{name} is not for pods that serve; give it to the job that fills the volume")
    if name.startswith(_OWN_VARIABLES):
        raise ValueError(f"{name} is set by the manifest itself; remove it")
    return name


VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_not_ours)]


class SecretKey(Strict):
    """One value of a Secret that exists already."""

    secret: ObjectName
    key: SecretKeyName


class ModelsVolume(Strict):
    """A PersistentVolumeClaim with the checkpoints, mounted read-only in every worker pod."""

    claim: ObjectName
    mount_path: MountPath = "/models"
    sub_path: str | None = Field(None, pattern=r"^[^/].*$")


class Redis(Strict):
    """Where Ray's head keeps its tables, so that a new head finds them. Valkey speaks the same protocol."""

    address: str = Field(pattern=r"^(rediss?://)?[A-Za-z0-9][A-Za-z0-9.-]*:[0-9]{1,5}$")
    password: SecretKey | None = None


class Toleration(Strict):
    """Kubernetes' own, with its defaults."""

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _kubernetes_takes_it(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value has no effect with operator: Exists; remove it")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key is required with operator: Equal; add it or use operator: Exists")
        return self


class Placement(Strict):
    """On which machines pods may stand."""

    node_selector: dict[LabelKey, LabelValue] = {}
    tolerations: list[Toleration] = []


class HeadPod(Placement):
    """Ray's head: it schedules, and serves no request."""

    num_cpus: int = Field(2, ge=1)
    memory_bytes: int = Field(8 * GIB, ge=2 * GIB)


class WorkerPods(Placement):
    """Settings for the pods of the named models (an expert's or a pool's name, `meta`, `router`), or of all
    that ask for an accelerator. What is left out follows from the models' `resources`."""

    models: list[str] | None = Field(None, min_length=1)
    accelerator_type: str | None = Field(None, min_length=1)
    replicas_per_pod: int | None = Field(None, ge=1, le=64)
    max_pods: int | None = Field(None, ge=1)
    num_cpus: int | None = Field(None, ge=1)
    memory_bytes: int | None = Field(None, ge=GIB)

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if (self.models is None) == (self.accelerator_type is None):
            raise ValueError("needs exactly one of models, accelerator_type; keep or add one of them")
        return self


class KubernetesBlock(Strict):
    """One RayService. Only `image` has no default: it must hold this package and the Ray it is pinned to."""

    image: str = Field(pattern=r"^[a-z0-9][\w./:@-]*$")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: list[ObjectName] = []
    service: ServiceName | None = None  # None: the cluster's name
    namespace: Namespace = "default"
    gpu_resource: Literal["nvidia.com/gpu", "amd.com/gpu"] = "nvidia.com/gpu"
    models: ModelsVolume | None = None  # None: the image holds them
    env: dict[VariableName, str] = {}
    secret_env: dict[VariableName, SecretKey] = {}
    redis: Redis | None = None  # None: who loses the head loses the cluster
    head: HeadPod = HeadPod()
    pods: list[WorkerPods] = []
    idle_timeout_s: int = Field(300, ge=60)  # of a pod that nobody needs any more
    initializing_timeout_s: int = Field(3600, ge=60)  # KubeRay gives up for good after it
    termination_grace_s: int | None = Field(None, ge=60)  # None: the longest answer and a minute

    @model_validator(mode="after")
    def _each_variable_once(self) -> Self:
        twice = sorted(set(self.env) & set(self.secret_env))
        if twice:
            raise ValueError(f"secret_env.{twice[0]}: is in env too; keep one of them")
        return self
