"""The `kubernetes` block of cluster.yaml: what Kubernetes would refuse later is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.cluster_config import load_config
from cluster.config.kubernetes import KubernetesConfig
from cluster.errors import ConfigError

IMAGE = {"image": "registry.example.com/etr:1.0"}


def load(
    folder: Path, block: Any, *, path: str = "/models/meta", models_required: bool = False
) -> KubernetesConfig:
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump({"meta": {"model": {"path": path}}, "kubernetes": block}))
    config = load_config(file, models_required=models_required)
    assert config.kubernetes is not None
    return config.kubernetes


def test_only_the_image_is_required(tmp_path: Path):
    block = load(tmp_path, IMAGE)
    assert (block.namespace, block.models, block.redis, block.pods) == ("default", None, None, [])
    with pytest.raises(ConfigError, match="kubernetes.image: is required; add it"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"imag": "x"}, "kubernetes.imag: unknown key; did you mean 'image'?"),
        ({"image": "Bad Image"}, "kubernetes.image: "),
        ({"service": "Models"}, "kubernetes.service: "),
        ({"service": "m" * 48}, "kubernetes.service: "),
        ({"service": "7b"}, "kubernetes.service: "),
        ({"namespace": "a.b"}, "kubernetes.namespace: "),
        ({"image_pull_policy": "Sometimes"}, "kubernetes.image_pull_policy: "),
        ({"models": {}}, "kubernetes.models.claim: is required"),
        ({"models": {"claim": "m", "mount_path": "models"}}, "kubernetes.models.mount_path: "),
        ({"models": {"claim": "m", "mount_path": "/models/"}}, "kubernetes.models.mount_path: "),
        ({"models": {"claim": "m", "sub_path": "/v1"}}, "kubernetes.models.sub_path: "),
        ({"redis": {"address": "valkey"}}, "kubernetes.redis.address: "),
        (
            {"redis": {"address": "valkey:6379", "password": "secret"}},
            "kubernetes.redis.password: must be a block",
        ),
        ({"env": {"HF_TOKEN": "x"}}, "kubernetes.env.HF_TOKEN: HF_TOKEN must not be in serving pods"),
        (
            {"env": {"RAY_AUTH_MODE": "disabled"}},
            "kubernetes.env.RAY_AUTH_MODE: RAY_AUTH_MODE is set by the manifest",
        ),
        ({"env": {"A B": "x"}}, "kubernetes.env.A B: "),
        ({"env": {"A": 1}}, "kubernetes.env.A: "),
        (
            {"env": {"A": "1"}, "secret_env": {"A": {"secret": "s", "key": "k"}}},
            "kubernetes: secret_env.A: is in env too",
        ),
        ({"secret_env": {"A": {"secret": "S", "key": "k"}}}, "kubernetes.secret_env.A.secret: "),
        ({"head": {"num_cpus": 0}}, "kubernetes.head.num_cpus: "),
        ({"head": {"memory_bytes": 1024}}, "kubernetes.head.memory_bytes: "),
        ({"head": {"node_selector": {"a b": "c"}}}, "kubernetes.head.node_selector.a b: "),
        ({"pods": [{"num_cpus": 2}]}, "kubernetes.pods.0: needs exactly one of models, accelerator_type"),
        ({"pods": [{"models": [], "num_cpus": 2}]}, "kubernetes.pods.0.models: "),
        ({"pods": [{"models": ["meta"], "replicas_per_pod": 0}]}, "kubernetes.pods.0.replicas_per_pod: "),
        ({"head": {"tolerations": [{"value": "x"}]}}, "kubernetes.head.tolerations.0: key is required"),
        (
            {"head": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}},
            "kubernetes.head.tolerations.0: value has no effect with operator: Exists",
        ),
        ({"idle_timeout_s": 1}, "kubernetes.idle_timeout_s: "),
        ({"incremental_upgrade": {}}, "kubernetes.incremental_upgrade.gateway_class: "),
        (
            {"incremental_upgrade": {"gateway_class": "istio", "max_surge_percent": 20, "step_percent": 30}},
            "kubernetes.incremental_upgrade: step_percent: 30 is above max_surge_percent, 20",
        ),
        ({"initializing_timeout_s": 0}, "kubernetes.initializing_timeout_s: "),
        ({"termination_grace_s": 10}, "kubernetes.termination_grace_s: "),
        ({"gpu_resource": "gpu"}, "kubernetes.gpu_resource: "),
    ],
)
def test_values_that_kubernetes_does_not_accept_are_refused(
    tmp_path: Path, block: dict[str, Any], problem: str
):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, IMAGE | block)
    (line,) = caught.value.problems
    assert line.startswith(f"{tmp_path / 'cluster.yaml'}: {problem}"), line


@pytest.mark.parametrize("path", ["models/meta", "/models/../etc"])
def test_a_model_on_another_machine_needs_an_absolute_path(tmp_path: Path, path: str):
    with pytest.raises(
        ConfigError,
        match="is not absolute; give the absolute path of the model on the machines that serve it",
    ):
        load(tmp_path, IMAGE, path=path)


def test_only_rendering_works_without_the_models(tmp_path: Path):
    assert load(tmp_path, IMAGE)
    with pytest.raises(ConfigError, match=r"meta.model.path: no such folder '/models/meta'"):
        load(tmp_path, IMAGE, models_required=True)
