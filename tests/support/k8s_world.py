"""The shipped examples, with placeholder tokens, for tests of Kubernetes manifests."""

from __future__ import annotations

import copy
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.errors import ConfigError
from cluster.kuberay.render import build_rayservice
from examples.gpu import samples
from examples.gpu.placeholder_tokens import write_placeholders

REPOSITORY = Path(__file__).resolve().parents[2]
K8S = REPOSITORY / "k8s"
SEVEN_MODELS = Path(__file__).with_name("seven_models.yaml")


def copy_example(name: str, folder: Path) -> Path:
    """Copy `seven_models` or a shipped example to `folder`, with placeholder tokens."""
    if name != SEVEN_MODELS.stem:
        return samples.copy_example(name, folder)
    path = Path(shutil.copy(SEVEN_MODELS, folder / "cluster.yaml"))
    write_placeholders(path, dim=128)
    return path


def config_of(path: Path, **blocks: Any) -> ClusterConfig:
    """The config in `path`, with some blocks of the file replaced."""
    data = yaml.safe_load(path.read_text()) | blocks
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_config(path, models_required=False)


def manifest_of(name: str, folder: Path) -> dict[str, Any]:
    return copy.deepcopy(build_rayservice(load_config(copy_example(name, folder), models_required=False)))


def group(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    groups = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (found,) = (group for group in groups if group["groupName"] == name)
    return found


def refused(path: Path, **blocks: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build_rayservice(config_of(path, **blocks))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    return problem.removeprefix(f"{path}: ")


def plain(**settings: Any) -> dict[str, Any]:
    return {"image": "etr:test", **settings}


def meta(resources: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"path": "/opt/etr/demo/models/meta"}, "resources": resources}


def groups(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return list(manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"])


def names(manifest: dict[str, Any]) -> list[str]:
    return [group["groupName"] for group in groups(manifest)]


def pod(group: dict[str, Any]) -> dict[str, Any]:
    return dict(group["template"]["spec"])


def container(group: dict[str, Any]) -> dict[str, Any]:
    return dict(pod(group)["containers"][0])


def limits(group: dict[str, Any]) -> dict[str, str]:
    return dict(container(group)["resources"]["limits"])


@cache
def crd() -> dict[str, Any]:
    """KubeRay's definition of a RayService: named by ETR_RAYSERVICE_CRD, or beside the repository."""
    named = os.environ.get("ETR_RAYSERVICE_CRD")
    found = (
        [Path(named)] if named else sorted((REPOSITORY.parent / "shared" / "k8s").glob("*rayservices*.yaml"))
    )
    if not found:
        pytest.skip("NOT CHECKED against KubeRay's schema: set ETR_RAYSERVICE_CRD to ray.io_rayservices.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in Python takes ten seconds
    return dict(yaml.load(found[0].read_text(), Loader=loader))
