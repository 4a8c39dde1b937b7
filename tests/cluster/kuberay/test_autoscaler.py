"""Ray's own autoscaler reads the rendered groups, and starts for a waiting replica the pod made for it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import resources_from_ray_options
from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest  # type: ignore[attr-defined]

from cluster.kuberay.render import build_rayservice
from tests.support.k8s_world import config_of, copy_example, manifest_of


def started(manifest: dict[str, Any], bound: str) -> tuple[dict[str, int], int]:
    """Pods that it starts, by group, when every deployment asks for `bound` replicas; replicas left over."""
    types = _generate_available_node_types_from_ray_cr_spec(manifest["spec"]["rayClusterConfig"])
    configs = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=one["min_workers"],
            max_worker_nodes=one["max_workers"],
            resources=one["resources"],
            labels=one["labels"],
        )
        for name, one in types.items()
        if name != "headgroup"
    }
    replicas = _replicas(manifest, bound)
    alone = [_demand(one["ray_actor_options"]) for one in replicas if "placement_group_bundles" not in one]
    split = [one["placement_group_bundles"] for one in replicas if "placement_group_bundles" in one]
    request = SchedulingRequest(
        node_type_configs=configs,
        resource_requests=ResourceRequestUtil.group_by_count(alone),
        gang_resource_requests=[_gang(number, bundles) for number, bundles in enumerate(split)],
        disable_launch_config_check=True,
    )
    reply = ResourceDemandScheduler().schedule(request)
    pods = Counter({launch.instance_type: launch.count for launch in reply.to_launch})
    num_left = sum(one.count for one in _by_count(reply.infeasible_resource_requests))
    return dict(pods), num_left + len(reply.infeasible_gang_resource_requests)


def _replicas(manifest: dict[str, Any], bound: str) -> list[dict[str, Any]]:
    """The deployment of each replica."""
    deploy = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    deployments = [app["deployments"][0] for app in deploy["applications"]]
    return [one for one in deployments for _ in range(one["autoscaling_config"][bound])]


def _demand(options: dict[str, Any]) -> Any:
    amounts = resources_from_ray_options(dict(options))
    return ResourceRequestUtil.make({name: amount for name, amount in amounts.items() if amount})


def _gang(number: int, bundles: list[dict[str, float]]) -> Any:
    """What Ray asks of the autoscaler for a placement group with STRICT_PACK: all bundles on one node."""
    together = [(ResourceRequestUtil.PlacementConstraintType.AFFINITY, f"group-{number}", "")]
    return GangResourceRequest(requests=[ResourceRequestUtil.make(bundle, together) for bundle in bundles])


def _by_count(requests: Any) -> Any:
    return ResourceRequestUtil.group_by_count(list(requests))


@pytest.mark.parametrize("name", ["demo", "gpu"])
def test_the_smallest_cluster_holds_the_minimum_of_replicas(tmp_path: Path, name: str):
    manifest = manifest_of(name, tmp_path)
    groups = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pods, num_left = started(manifest, "min_replicas")
    assert pods == {one["groupName"]: one["minReplicas"] for one in groups}
    assert num_left == 0


def test_replicas_beyond_max_pods_wait(tmp_path: Path):
    """Three experts and the pool may have two replicas, one may have one: nine for the six GPUs there are."""
    pods, num_left = started(manifest_of("gpu", tmp_path), "max_replicas")
    assert pods == {"cpu1": 2, "gpu1-cpu0-h100": 2, "gpu1-cpu0-l40s": 6, "gpu2-cpu0-h100": 1}
    assert num_left == 3


def test_waking_an_expert_starts_a_pod_of_its_group_only(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    experts = yaml.safe_load(path.read_text())["experts"]
    autoscaling = {"min_replicas": 0, "max_replicas": 2}
    experts["roman"] |= {"resources": {"num_gpus": 0.5, "num_cpus": 0}, "autoscaling": autoscaling}
    experts["morse"] |= {"resources": {"num_gpus": 1, "accelerator_type": "L40S"}, "autoscaling": autoscaling}
    manifest = build_rayservice(config_of(path, experts=experts))
    assert started(manifest, "min_replicas")[0] == {"cpu1": 1, "cpu250m": 1}
    pods, num_left = started(manifest, "max_replicas")
    assert pods == {"cpu1": 1, "cpu250m": 1, "gpu500m-cpu0": 1, "gpu1-cpu1-l40s": 2}
    assert num_left == 0


def test_amounts_are_whole_as_the_autoscaler_rounds_them(tmp_path: Path):
    manifest = manifest_of("gpu", tmp_path)
    types = _generate_available_node_types_from_ray_cr_spec(manifest["spec"]["rayClusterConfig"])
    assert types["headgroup"]["resources"]["CPU"] == 0
    for one in manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        for name, amount in one["resources"].items():
            assert types[one["groupName"]]["resources"][name] == math.ceil(float(amount)) == float(amount)
