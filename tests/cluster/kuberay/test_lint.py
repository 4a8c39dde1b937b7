"""The linter: what the schema lets pass and the operator, Ray or Serve would not, said before it is sent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import ConfigError
from cluster.kuberay.lint import MAX_SERVE_TEXT_BYTES, lint, require_clean
from cluster.kuberay.render import serve_text
from tests.support.k8s_world import manifest_of

CLUSTER = "spec/rayClusterConfig"
HEAD = f"{CLUSTER}/headGroupSpec"
GROUP = f"{CLUSTER}/workerGroupSpecs/0"
INCREMENTAL = {
    "gatewayClassName": "istio",
    "stepSizePercent": 10,
    "intervalSeconds": 30,
    "maxSurgePercent": 100,
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return manifest_of("gpu", tmp_path_factory.mktemp("gpu"))


@pytest.fixture
def manifest(rendered: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(rendered)


def test_a_rendered_manifest_has_no_problems(manifest: dict[str, Any]):
    assert lint(manifest) == []


def variable(name: str, value: str = "1") -> dict[str, str]:
    return {"name": name, "value": value}


MUTATIONS: list[tuple[str, Any, str]] = [
    ("metadata/name", "m" * 48, "metadata.name: 'mmm"),
    ("metadata/name", "7b", "metadata.name: '7b' is not a valid name of a service"),
    ("metadata/name", "a.b", "metadata.name: 'a.b' is not a valid name of a service"),
    (
        "metadata/annotations/ray.io~initializing-timeout",
        "soon",
        "metadata.annotations: initializing",
    ),
    (
        "metadata/annotations/ray.io~initializing-timeout",
        "0s",
        "metadata.annotations: initializing",
    ),
    ("metadata/annotations/ray.io~ft-enabled", "true", "metadata.annotations.ray.io/ft-enabled: repeats"),
    ("spec/upgradeStrategy", {"type": "Bogus"}, "upgradeStrategy.type: 'Bogus' is not one of"),
    (
        "spec/upgradeStrategy",
        {"type": "NewClusterWithIncrementalUpgrade"},
        "upgradeStrategy.clusterUpgradeOptions: is required",
    ),
    (
        "spec/upgradeStrategy",
        {
            "type": "NewClusterWithIncrementalUpgrade",
            "clusterUpgradeOptions": INCREMENTAL | {"stepSizePercent": 101},
        },
        "upgradeStrategy.clusterUpgradeOptions.stepSizePercent: must be between 0 and 100",
    ),
    (
        "spec/upgradeStrategy",
        {
            "type": "NewClusterWithIncrementalUpgrade",
            "clusterUpgradeOptions": INCREMENTAL | {"intervalSeconds": 0},
        },
        "upgradeStrategy.clusterUpgradeOptions.intervalSeconds: must be above 0",
    ),
    ("spec/rayClusterDeletionDelaySeconds", -1, "rayClusterDeletionDelaySeconds: is negative"),
    (
        f"{HEAD}/headService",
        {"metadata": {"name": "x"}},
        "headGroupSpec.headService.metadata.name: the",
    ),
    (f"{GROUP}/groupName", "gpu1-cpu0-h100", "workerGroupSpecs: 2 groups are named 'gpu1-cpu0-h100'"),
    (f"{GROUP}/groupName", "gpu_", "workerGroupSpecs.gpu_: is not a valid value of a label"),
    (
        f"{GROUP}/minReplicas",
        5,
        "workerGroupSpecs.cpu1: minReplicas 5 and maxReplicas 4 are not a",
    ),
    (f"{GROUP}/rayStartParams/num-cpus", "4", "workerGroupSpecs.cpu1: resources are also in rayStartParams"),
    (f"{GROUP}/rayStartParams/labels", "a=b", "workerGroupSpecs.cpu1.rayStartParams.labels: is not"),
    (f"{HEAD}/resources", {"CPU": "4"}, "headGroupSpec: resources are also in rayStartParams (num-cpus)"),
    (f"{GROUP}/resources/CPU", "0.5", "workerGroupSpecs.cpu1.resources.CPU: '0.5' is not whole"),
    (
        f"{GROUP}/labels",
        {"zone": "in(a,b)"},
        "workerGroupSpecs.cpu1.labels: 'zone: in(a,b)' is not a valid",
    ),
    (f"{GROUP}/template/spec/containers", [], "workerGroupSpecs.cpu1: has no container"),
    (f"{GROUP}/template/spec/volumes/0/name", "x", "workerGroupSpecs.cpu1: /tmp mounts volume 'tmp'"),
    (f"{GROUP}/template/spec/restartPolicy", "Always", "workerGroupSpecs.cpu1: restartPolicy must be Never"),
    (f"{HEAD}/template/spec/restartPolicy", "OnFailure", "headGroupSpec: restartPolicy must be Never"),
    (f"{GROUP}/suspend", True, "workerGroupSpecs.cpu1: cannot be suspended"),
    (f"{CLUSTER}/rayVersion", "2.51.0", "rayVersion: authOptions.mode: token needs 2.52.0"),
    (f"{CLUSTER}/rayVersion", "latest", "rayVersion: authOptions.mode: token needs 2.52.0"),
    (f"{CLUSTER}/authOptions/mode", "disabled", "authOptions.mode: anyone who can reach Ray's ports"),
    (f"{HEAD}/rayStartParams/redis-password", "x", "headGroupSpec: a Redis password is set beside"),
    (f"{HEAD}/rayStartParams/redis-username", "x", "headGroupSpec: the Redis user is set beside"),
    (
        f"{HEAD}/template/spec/containers/0/env/0",
        variable("REDIS_PASSWORD"),
        "headGroupSpec: a Redis password",
    ),
    (
        f"{HEAD}/template/spec/containers/0/env/0",
        variable("RAY_REDIS_ADDRESS", "r:6379"),
        "headGroupSpec: RAY_REDIS_ADDRESS repeats gcsFaultToleranceOptions",
    ),
    (
        f"{HEAD}/template/spec/containers/0/env/0",
        variable("RAY_enable_autoscaler_v2"),
        "headGroupSpec: RAY_enable_autoscaler_v2 repeats autoscalerOptions.version",
    ),
    ("spec/serveConfigV2", "a: [", "serveConfigV2: is not YAML"),
    ("spec/serveConfigV2", "", "serveConfigV2: is not a deploy config"),
]


@pytest.mark.parametrize(("path", "value", "problem"), MUTATIONS, ids=lambda value: str(value)[:40])
def test_a_manifest_that_breaks_a_rule_of_the_operator_is_refused(
    manifest: dict[str, Any], path: str, value: Any, problem: str
):
    (found,) = lint(mutated(manifest, path, value))
    assert found.startswith(problem)


def test_redis_variables_need_fault_tolerance_options(manifest: dict[str, Any]):
    del manifest["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    address = variable("RAY_REDIS_ADDRESS", "r:6379")
    (found,) = lint(mutated(manifest, f"{HEAD}/template/spec/containers/0/env/0", address))
    assert found.startswith("headGroupSpec: RAY_REDIS_ADDRESS needs gcsFaultToleranceOptions")


def test_autoscaler_v2_needs_in_tree_autoscaling(manifest: dict[str, Any]):
    manifest["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"] = False
    setting = variable("RAY_enable_autoscaler_v2")
    (found,) = lint(mutated(manifest, f"{HEAD}/template/spec/containers/0/env/0", setting))
    assert "needs enableInTreeAutoscaling: true" in found


SERVE_MUTATIONS: list[tuple[str, Any, str]] = [
    ("http_options/host", "127.0.0.1", "serveConfigV2: http_options.host: '127.0.0.1' cannot be reached"),
    ("proxy_location", "HeadOnly", "serveConfigV2: proxy_location: only EveryNode"),
    ("applicatons", [], "serveConfigV2: applicatons: Serve has no such key; remove it"),
    (
        "applications/0/deployments/0/num_replica",
        2,
        "serveConfigV2: expert-chemistry.Model.num_replica: Serve",
    ),
    (
        "applications/0/deployments/0/autoscaling_config/min_replica",
        2,
        "serveConfigV2: expert-chemistry.Model.autoscaling_config.min_replica: Serve has no such key",
    ),
    ("applications/0/args/typo", 1, "serveConfigV2: expert-chemistry.args.typo: Extra inputs"),
    (
        "applications/7/deployments/0/user_config/typo",
        1,
        "serveConfigV2: router.Router.user_config.typo: Extra",
    ),
]


@pytest.mark.parametrize(("path", "value", "problem"), SERVE_MUTATIONS, ids=lambda value: str(value)[:40])
def test_the_deploy_config_in_the_manifest_is_checked(
    manifest: dict[str, Any], path: str, value: Any, problem: str
):
    deploy = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    manifest["spec"]["serveConfigV2"] = serve_text(mutated(deploy, path, value))
    (found,) = lint(manifest)
    assert found.startswith(problem)


def test_more_tokens_than_etcd_accepts_are_refused(manifest: dict[str, Any]):
    manifest["spec"]["serveConfigV2"] += "#" * MAX_SERVE_TEXT_BYTES
    (found,) = lint(manifest)
    assert "are more than etcd accepts" in found


def test_problems_name_the_file(manifest: dict[str, Any]):
    manifest["metadata"]["name"] = "7b"
    manifest["spec"]["rayClusterDeletionDelaySeconds"] = -1
    with pytest.raises(ConfigError) as caught:
        require_clean(manifest, Path("some/cluster.yaml"))
    assert [line.partition(": ")[0] for line in caught.value.problems] == ["some/cluster.yaml"] * 2


def mutated(manifest: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The manifest with the value at a path replaced or added; `~` stands for a slash in a key."""
    *parents, last = path.split("/")
    block: Any = manifest
    for key in parents:
        block = block[int(key)] if isinstance(block, list) else block.setdefault(key, {})
    block[int(last) if isinstance(block, list) else last.replace("~", "/")] = value
    return manifest
