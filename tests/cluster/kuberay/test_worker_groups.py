"""Worker groups: their order, their pods' size, and how many there may be follow from cluster.yaml."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.cluster_config import load_config
from cluster.kuberay.render import build_rayservice
from cluster.kuberay.replica_shape import ReplicaShape
from examples.gpu.placeholder_tokens import write_placeholders
from tests.support.k8s_world import (
    config_of,
    container,
    copy_example,
    group,
    groups,
    limits,
    manifest_of,
    meta,
    names,
    plain,
    pod,
    refused,
)


def test_groups_follow_the_file_and_a_new_shape_comes_last(tmp_path: Path):
    path = copy_example("gpu", tmp_path)
    before = build_rayservice(load_config(path, models_required=False))
    assert names(before) == ["cpu1", "gpu1-cpu0-h100", "gpu1-cpu0-l40s", "gpu2-cpu0-h100"]
    data = yaml.safe_load(path.read_text())
    experts = data["experts"] | {
        "astronomy": copy.deepcopy(data["experts"]["law"])
        | {
            "engine": {"kind": "vllm", "gpu_memory_utilization": 0.45},
            "token": "tokens/astronomy.safetensors",
            "resources": {"num_gpus": 0.5, "num_cpus": 0},
        }
    }
    path.write_text(yaml.safe_dump(data | {"experts": experts}, sort_keys=False))
    write_placeholders(path, 4096)
    after = build_rayservice(load_config(path, models_required=False))
    assert names(after) == [*names(before), "gpu500m-cpu0"]
    assert groups(after)[:4] == groups(before)


def test_an_expert_with_an_existing_shape_changes_only_numbers_of_pods(tmp_path: Path):
    path = copy_example("gpu", tmp_path)
    data = yaml.safe_load(path.read_text())
    before = build_rayservice(load_config(path, models_required=False))
    law = data["experts"].pop("law")
    del data["kubernetes"]["pods"][1]["max_pods"]
    after = build_rayservice(config_of(path, experts=data["experts"], kubernetes=data["kubernetes"]))
    assert law["resources"]["accelerator_type"] == "L40S"
    assert names(after) == names(before)
    changed = group(after, "gpu1-cpu0-l40s")
    assert (changed["minReplicas"], changed["maxReplicas"]) == (3, 7)
    assert changed["template"] == group(before, "gpu1-cpu0-l40s")["template"]


def test_an_embedder_gets_pods_of_its_own_shape_or_shares_those_of_the_same(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    before = build_rayservice(load_config(path, models_required=False))
    embedder = {"model": {"path": "/opt/etr/demo/models/bge"}, "autoscaling": {"max_replicas": 4}}
    on_gpus = {**embedder, "resources": {"num_gpus": 1, "num_cpus": 0}}
    manifest = build_rayservice(config_of(path, embeddings={"bge": on_gpus}))
    assert {*names(manifest)} == {*names(before), "gpu1-cpu0"}
    own = group(manifest, "gpu1-cpu0")
    assert (own["minReplicas"], own["maxReplicas"], limits(own)["nvidia.com/gpu"]) == (1, 4, "1")
    served = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    (app,) = (app for app in served if app["name"] == "embedder-bge")
    assert app["args"]["model"] == {"path": "/opt/etr/demo/models/bge"}
    shared = {**embedder, "resources": {"num_cpus": 0.25}}
    manifest = build_rayservice(config_of(path, embeddings={"bge": shared}))
    assert names(manifest) == names(before)


def test_the_gpu_example_uses_ten_gpus(tmp_path: Path):
    manifest = manifest_of("gpu", tmp_path)
    gpus = [one for one in groups(manifest) if "GPU" in one["resources"]]
    assert sum(one["maxReplicas"] * int(one["resources"]["GPU"]) for one in gpus) == 10
    assert [one["resources"]["GPU"] for one in gpus] == ["1", "1", "2"]  # the last is for a split model
    for one in gpus:
        assert limits(one)["nvidia.com/gpu"] == one["resources"]["GPU"]
        assert one["resources"]["CPU"] == "0"  # no replica without a GPU can stand in the way
        assert f"accelerator_type:{one['groupName'][-4:].upper()}" in one["resources"]
    # One expert may sleep; the others, the pool and the meta's two replicas may not.
    assert [one["minReplicas"] for one in gpus] == [2, 4, 1]
    assert "replicas" not in gpus[0]


@pytest.mark.parametrize(
    ("resources", "autoscaling", "expected"),
    [
        # (name, CPU and GPU in one pod, pods)
        ({"num_cpus": 0.5}, {"max_replicas": 9}, ("cpu500m", "2", None, (1, 3))),
        ({"num_cpus": 3}, {"min_replicas": 2, "max_replicas": 3}, ("cpu3", "3", None, (2, 3))),
        ({"num_gpus": 1}, {"max_replicas": 3}, ("gpu1-cpu1", "3", "1", (1, 3))),
        ({"num_gpus": 0.5, "num_cpus": 1}, {"max_replicas": 3}, ("gpu500m-cpu1", "4", "1", (1, 2))),
        ({"num_gpus": 1, "num_cpus": 0}, {"min_replicas": 0}, ("gpu1-cpu0", "0", "1", (0, 1))),
    ],
)
def test_pods_hold_what_their_replicas_reserve(
    tmp_path: Path, resources: dict[str, Any], autoscaling: dict[str, Any], expected: tuple[Any, ...]
):
    path = copy_example("seven_models", tmp_path)
    experts = yaml.safe_load(path.read_text())["experts"]
    experts = {"roman": experts["roman"] | {"resources": resources, "autoscaling": autoscaling}}
    # The others have labels that keep their replicas out of the pods in question.
    others = {"num_cpus": 1, "labels": {"pool": "others"}}
    manifest = build_rayservice(
        config_of(path, experts=experts, meta=meta(others), router={"resources": others}, kubernetes=plain())
    )
    name, cpus, gpus, (low, high) = expected
    found = group(manifest, name)
    assert (found["resources"]["CPU"], found["resources"].get("GPU")) == (cpus, gpus)
    assert (found["minReplicas"], found["maxReplicas"]) == (low, high)
    assert limits(found).get("nvidia.com/gpu") == gpus
    assert float(limits(found)["cpu"]) >= max(1, float(cpus))


def test_pods_have_the_labels_and_resources_that_their_replicas_ask_for(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    resources = {"num_cpus": 1, "memory_bytes": 2**30, "custom": {"disk": 0.3}, "labels": {"zone": "a"}}
    manifest = build_rayservice(config_of(path, meta=meta(resources), kubernetes=plain()))
    (found,) = (one for one in groups(manifest) if one["groupName"].startswith("cpu1-"))
    assert found["resources"] == {"CPU": "2", "memory": str(2 * 2**30), "disk": "1"}
    assert found["labels"] == {"zone": "a"}
    assert limits(found)["memory"] == "5Gi"


def test_there_is_a_pod_for_the_router_even_if_small_replicas_fill_its_first_one(tmp_path: Path):
    found = group(manifest_of("seven_models", tmp_path), "cpu1")
    assert (found["minReplicas"], found["maxReplicas"]) == (1, 8)


def test_tensor_parallel_replicas_get_all_their_gpus_in_one_pod(tmp_path: Path):
    """The engine that would use them comes later; a deployment with a placement group has a shape."""
    bundles = [
        {"CPU": 1.0, "GPU": 1.0, "accelerator_type:H100": 0.001},
        {"GPU": 1.0, "accelerator_type:H100": 0.001},
    ]
    deployment = {
        "ray_actor_options": {"num_cpus": 1, "num_gpus": 0},
        "placement_group_bundles": bundles,
        "placement_group_bundle_label_selector": [{"zone": "a"}, {"zone": "a"}],
    }
    shape = ReplicaShape.of(deployment)
    assert (shape.num_gpus, shape.num_cpus, shape.accelerator_type) == (2, 1, "H100")
    assert shape.node_labels == (("zone", "a"),)
    assert shape.label.startswith("gpu2-cpu1-h100-")


def test_settings_reach_the_pods_they_choose(tmp_path: Path):
    manifest = manifest_of("gpu", tmp_path)
    h100 = group(manifest, "gpu1-cpu0-h100")
    assert pod(h100)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert pod(h100)["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert (limits(h100)["cpu"], limits(h100)["memory"]) == ("8", "64Gi")
    assert "nodeSelector" not in pod(group(manifest, "cpu1"))
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in container(h100)["volumeMounts"]
    options = manifest["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "valkey-auth", "key": "password"}


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            {"pods": [{"models": ["latin"], "num_cpus": 4}]},
            "kubernetes.pods.0.models: there is no model 'latin'",
        ),
        (
            {"pods": [{"accelerator_type": "H100"}]},
            "kubernetes.pods.0.accelerator_type: no model asks for 'H100'",
        ),
        ({"pods": [{"models": ["meta"], "max_pods": 99}]}, "kubernetes.pods.0.max_pods: 99 has no effect"),
        (
            {"pods": [{"models": ["meta"], "replicas_per_pod": 1, "max_pods": 3}]},
            "kubernetes.pods.0.max_pods: 3 is below the 7 that min_replicas need",
        ),
        (
            {"pods": [{"models": ["meta"], "replicas_per_pod": 8, "num_cpus": 1}]},
            "kubernetes.pods.0.num_cpus: 1 is below the 2 its replicas reserve",
        ),
        (
            {"pods": [{"models": ["meta"]}, {"models": ["roman"]}]},
            "kubernetes: pods.0 and pods.1 both choose the pods of meta, roman",
        ),
        ({"models": {"claim": "models"}}, "kubernetes.models: no model is below /models"),
    ],
)
def test_a_setting_without_effect_is_refused(tmp_path: Path, block: dict[str, Any], expected: str):
    path = copy_example("seven_models", tmp_path)
    experts = yaml.safe_load(path.read_text())["experts"]
    assert refused(path, experts=experts, kubernetes=plain(**block)).startswith(expected)


def test_a_label_that_pods_cannot_have_is_refused(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    problem = refused(path, meta=meta({"labels": {"zone": "!a"}}), kubernetes=plain())
    assert problem == "resources.labels.zone of meta: '!a' is not a valid pod label; give one value"
