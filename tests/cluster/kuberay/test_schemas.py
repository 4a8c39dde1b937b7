"""Manifests against the schemas of those who read them: Kubernetes, KubeRay, a real API server if named."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from cluster.kuberay.render import build_rayservice
from examples.gpu.samples import EXAMPLES
from tests.support.k8s_world import K8S, config_of, copy_example, crd, group, manifest_of

KUBERNETES = ("1.34", "1.37")  # the oldest and the newest that KubeRay 1.7 and the schemas have in common
PLAIN_FILES = ("networkpolicy.yaml", "disruption.yaml", "models.yaml")


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    """KubeRay's own schema as JSON schema, closed: the API server drops unknown fields or refuses them."""
    (version,) = (one for one in crd()["spec"]["versions"] if one["storage"])
    assert version["name"] == "v1"
    return jsonschema.Draft202012Validator(_json_schema(version["schema"]["openAPIV3Schema"]))


@pytest.fixture(scope="module", params=EXAMPLES)
def shipped(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(yaml.safe_load((K8S / "samples" / f"{request.param}.yaml").read_text()))


@pytest.fixture
def manifest(tmp_path: Path) -> dict[str, Any]:
    return manifest_of("gpu", tmp_path)


def test_the_samples_match_kuberays_schema(schema: jsonschema.Draft202012Validator, shipped: dict[str, Any]):
    assert [error.message for error in schema.iter_errors(shipped)] == []


def test_an_incremental_upgrade_matches_kuberays_schema(
    schema: jsonschema.Draft202012Validator, tmp_path: Path
):
    config = config_of(
        copy_example("seven_models", tmp_path),
        kubernetes={"image": "i:1", "incremental_upgrade": {"gateway_class": "istio"}},
    )
    assert [error.message for error in schema.iter_errors(build_rayservice(config))] == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("spec/serveConfigV3", "", "'serveConfigV3' was unexpected"),
        ("spec/rayClusterConfig/autoscalerOptions/version", "v3", "'v3' is not one of"),
        ("spec/rayClusterConfig/workerGroupSpecs/0/minReplicas", "2", "'2' is not of type 'integer'"),
        (
            "spec/rayClusterConfig/workerGroupSpecs/0/template/spec/nodeSelectors",
            {},
            "'nodeSelectors' was unexpected",
        ),
        ("spec/rayClusterConfig/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'string'"),
        ("spec/rayClusterConfig/authOptions/mode", "none", "'none' is not one of"),
    ],
)
def test_kuberays_schema_refuses_wrong_manifests(
    schema: jsonschema.Draft202012Validator, manifest: dict[str, Any], path: str, value: Any, expected: str
):
    *parents, last = path.split("/")
    block: Any = manifest
    for key in parents:
        block = block[int(key) if isinstance(block, list) else key]
    block[last] = value
    (error,) = schema.iter_errors(manifest)
    assert expected in error.message


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_pods_of_the_samples_match_kubernetes_schema(shipped: dict[str, Any], version: str):
    for pod in _pods(shipped):
        kubernetes_validate.validate(pod, version, strict=True)


def test_kubernetes_schema_refuses_wrong_pods(manifest: dict[str, Any]):
    template = group(manifest, "cpu1")["template"]
    broken = copy.deepcopy(template)
    broken["spec"]["containers"][0]["lifecycle"]["preStart"] = {}
    with pytest.raises(kubernetes_validate.utils.ValidationError, match="preStart"):
        kubernetes_validate.validate(_as_pod(broken), KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", PLAIN_FILES)
def test_the_other_objects_match_kubernetes_schema(name: str, version: str):
    objects = list(yaml.safe_load_all((K8S / name).read_text()))
    assert objects
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_an_api_server_accepts_every_object(tmp_path: Path):
    """Strict dry run: what no schema says, as rules between fields and quantities, the server checks."""
    server = os.environ.get("ETR_KUBE_API_SERVER")
    if not server:
        pytest.skip("NOT CHECKED by an API server: set ETR_KUBE_API_SERVER to one with KubeRay's definitions")
    kubectl = ["kubectl", f"--server={server}", *os.environ.get("ETR_KUBECTL_OPTIONS", "").split()]
    for path in [*(K8S / "samples").glob("*.yaml"), *(K8S / name for name in PLAIN_FILES)]:
        # No object may need a namespace that the server does not have.
        objects = [one | {"metadata": one["metadata"] | {"namespace": "default"}} for one in _objects(path)]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        command = [*kubectl, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{path.name}: {done.stderr}"


def test_kustomize_puts_every_object_into_one_namespace():
    if shutil.which("kubectl") is None:
        pytest.skip("NOT CHECKED by kustomize: there is no kubectl here")
    done = subprocess.run(["kubectl", "kustomize", str(K8S)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"]["namespace"] for one in objects} == {"llm"}
    (service,) = (one for one in objects if one["kind"] == "RayService")
    assert service["spec"] == yaml.safe_load((K8S / "samples" / "gpu.yaml").read_text())["spec"]


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


def _pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterConfig"]
    for one in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        yield _as_pod(one["template"])


def _as_pod(template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", **template["metadata"]},
        "spec": template["spec"],
    }


def _json_schema(node: Any) -> Any:
    if isinstance(node, list):
        return [_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    kept = {
        key: value
        for key, value in node.items()
        if not (key.startswith("x-kubernetes") and value is not None)
    }
    for key in ("properties", "additionalProperties", "items"):
        if isinstance(kept.get(key), dict) and key == "properties":
            kept[key] = {name: _json_schema(one) for name, one in kept[key].items()}
        elif key in kept:
            kept[key] = _json_schema(kept[key])
    closes = "properties" in kept and not node.get("x-kubernetes-preserve-unknown-fields")
    return {"additionalProperties": False, **kept} if closes else kept
