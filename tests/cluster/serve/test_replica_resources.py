"""Where replicas run: what is reserved for one, in Serve's words."""

from __future__ import annotations

import copy
import json

import pytest
from ray.serve.schema import DeploymentSchema

from cluster.config.replicated_model import ResourcesConfig
from cluster.serve.replica_resources import resource_options

PARALLEL = {
    "tensor_parallel": 3,
    "num_cpus": 2.0,
    "memory_bytes": 1024,
    "accelerator_type": "H100",
    "custom": {"fast": 1.0},
    "labels": {"zone": "b", "rack": "a"},
}


def test_a_tensor_parallel_replica_is_a_placement_group_on_one_node():
    gpu = {"GPU": 1.0, "accelerator_type:H100": 0.001}
    group = resource_options(ResourcesConfig.model_validate(PARALLEL))
    assert group == {
        "ray_actor_options": {"num_cpus": 2.0, "num_gpus": 0.0, "memory": 1024, "resources": {"fast": 1.0}},
        "placement_group_bundles": [{"CPU": 2.0, "fast": 1.0, "memory": 1024.0, **gpu}, gpu, gpu],
        "placement_group_strategy": "STRICT_PACK",
        "placement_group_bundle_label_selector": [{"rack": "a", "zone": "b"}] * 3,
    }
    taken = DeploymentSchema.model_validate({"name": "Model", **copy.deepcopy(group)})
    # Serve starts the replica in the first bundle, so what the replica takes must be in there.
    first = taken.placement_group_bundles[0]
    assert first["CPU"] >= 2.0
    assert first["fast"] >= 1.0
    assert json.dumps(
        resource_options(ResourcesConfig.model_validate(dict(reversed(PARALLEL.items()))))
    ) == json.dumps(group)


def test_each_rank_of_each_pipeline_stage_has_a_gpu_of_one_node():
    group = resource_options(ResourcesConfig(tensor_parallel=2, pipeline_parallel=2))
    assert [bundle["GPU"] for bundle in group["placement_group_bundles"]] == [1.0] * 4
    assert group["placement_group_strategy"] == "STRICT_PACK"


@pytest.mark.parametrize("num_cpus", [0.0, 0.5])
def test_a_bundle_has_no_amount_of_zero(num_cpus: float):
    """Ray refuses a group with such a bundle."""
    group = resource_options(ResourcesConfig(tensor_parallel=2, num_cpus=num_cpus))
    cpus = {"CPU": num_cpus} if num_cpus else {}
    assert group["placement_group_bundles"] == [{**cpus, "GPU": 1.0}, {"GPU": 1.0}]
    assert "placement_group_bundle_label_selector" not in group


def test_a_replica_on_one_device_is_an_actor_with_options():
    resources = ResourcesConfig(num_gpus=0.5, accelerator_type="L4", labels={"zone": "b", "rack": "a"})
    assert resource_options(resources) == {
        "ray_actor_options": {
            "num_cpus": 1.0,
            "num_gpus": 0.5,
            "accelerator_type": "L4",
            "label_selector": {"rack": "a", "zone": "b"},
        }
    }
