"""cluster.yaml → RayService: the same text each time, and what runs is what is rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli_k8s import app as render_command
from cluster.config import load_config
from cluster.errors import ConfigError
from cluster.k8s import build_rayservice, render
from cluster.ray_env import RAY_ENV
from cluster.serve_config import build_serve_config
from cluster.target import connect_to
from examples.gpu.samples import EXAMPLES, copy_example
from tests.conftest import Served
from tests.k8s_world import (
    K8S,
    REPOSITORY,
    config_of,
    container,
    groups,
    manifest_of,
    plain,
    pod,
    refused,
)


def test_every_sample_is_what_the_command_renders_now(tmp_path: Path):
    for name in EXAMPLES:
        (tmp_path / name).mkdir()
        config, written = copy_example(name, tmp_path / name), tmp_path / f"{name}.yaml"
        result = CliRunner().invoke(render_command, [str(config), "-o", str(written)])
        assert result.exit_code == 0, result.output
        assert written.read_bytes() == (K8S / "samples" / f"{name}.yaml").read_bytes(), name


def test_the_command_prints_where_no_file_is_named(tmp_path: Path):
    config = copy_example("demo", tmp_path)
    result = CliRunner().invoke(render_command, [str(config)])
    assert result.stdout == render(load_config(config, models_required=False))
    refused = CliRunner().invoke(render_command, [str(config), "-o", str(tmp_path)])
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr


def test_the_demo_for_kubernetes_is_the_demo():
    here = yaml.safe_load((REPOSITORY / "examples/demo/cluster.yaml").read_text())
    there = yaml.safe_load(EXAMPLES["demo"][0].read_text())
    assert there.pop("kubernetes")
    for block in (there["meta"], *there["experts"].values()):
        block["model"]["path"] = block["model"]["path"].removeprefix("/opt/etr/demo/")
    assert there | {"http": here["http"]} == here


def test_the_order_of_the_keys_of_a_file_does_not_show(tmp_path: Path):
    path = copy_example("demo", tmp_path)
    data = yaml.safe_load(path.read_text())
    before = render(load_config(path, models_required=False))
    assert render(config_of(path, **{key: data[key] for key in reversed(data)})) == before


def test_what_is_rendered_is_what_a_cluster_is_sent(tmp_path: Path):
    path = copy_example("gpu", tmp_path)
    manifest = build_rayservice(load_config(path, models_required=False), epoch=7)
    sent = build_serve_config(load_config(path, models_required=False), epoch=7)
    assert yaml.safe_load(manifest["spec"]["serveConfigV2"]) == sent


@pytest.mark.cluster
def test_what_is_rendered_is_what_runs(served: Served, tmp_path: Path):
    """Serve keeps the config it was given for each application: the rendered ones are those."""
    path = tmp_path / "cluster.yaml"
    data = yaml.safe_load(served.config.source.read_text()) | {"kubernetes": {"image": "etr:test"}}
    path.write_text(yaml.safe_dump(data))
    manifest = build_rayservice(load_config(path, models_required=False))
    rendered = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    with connect_to(served.head) as client:
        running = client.details()["applications"]
    configs = {app["name"]: app for app in rendered["applications"]}
    assert {name: app["deployed_app_config"] for name, app in running.items()} == configs


def test_a_laptops_address_becomes_one_that_other_pods_reach(tmp_path: Path):
    path = copy_example("demo", tmp_path)
    deploy = served_by(build_rayservice(config_of(path, http={"host": "127.0.0.1", "port": 8123})))
    assert deploy["http_options"] == {"host": "0.0.0.0", "port": 8123}
    assert deploy["proxy_location"] == "EveryNode"
    problem = refused(path, http={"host": "10.0.0.7"})
    assert problem == "http.host: no pod is sure to have 10.0.0.7; use 0.0.0.0"


def test_pods_end_only_after_their_answers(tmp_path: Path):
    path = copy_example("demo", tmp_path)
    routing = {"deadlines": {"total_s": 900.5, "wake_s": 100.0}}
    for one in groups(build_rayservice(config_of(path, routing=routing))):
        assert pod(one)["terminationGracePeriodSeconds"] == 1061
        drain_s = int(container(one)["lifecycle"]["preStop"]["exec"]["command"][1])
        assert 1000.5 < drain_s < 1061
    problem = refused(path, kubernetes=plain(termination_grace_s=1060))
    assert problem.startswith("kubernetes.termination_grace_s: 1060 would cut answers off")
    long = build_rayservice(config_of(path, kubernetes=plain(termination_grace_s=4000)))
    assert pod(groups(long)[0])["terminationGracePeriodSeconds"] == 4000


def test_pods_wait_for_clients_however_short_their_models_may_drain(tmp_path: Path):
    path = copy_example("demo", tmp_path)
    routing = {"deadlines": {"total_s": 100.0, "wake_s": 20.0, "drain_s": 5.0}}
    manifest = build_rayservice(config_of(path, routing=routing))
    models = [one for app in served_by(manifest)["applications"] for one in app["deployments"]]
    assert {one["name"]: one["graceful_shutdown_timeout_s"] for one in models} == {
        "Model": 5.0,
        "Router": 120.0,
    }
    assert {pod(one)["terminationGracePeriodSeconds"] for one in groups(manifest)} == {180}


def test_no_request_is_served_on_the_head(tmp_path: Path):
    manifest = manifest_of("gpu", tmp_path)
    assert manifest["spec"]["excludeHeadPodFromServeSvc"] is True
    assert manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_every_pod_passes_the_restricted_profile_and_has_the_fast_path(tmp_path: Path):
    manifest = manifest_of("gpu", tmp_path)
    for one in [manifest["spec"]["rayClusterConfig"]["headGroupSpec"], *groups(manifest)]:
        assert pod(one)["securityContext"]["runAsNonRoot"] is True
        assert pod(one)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(one)["securityContext"]["allowPrivilegeEscalation"] is False
        assert container(one)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        variables = {variable["name"]: variable.get("value") for variable in container(one)["env"]}
        assert variables.items() >= (RAY_ENV | {"HF_HUB_OFFLINE": "1"}).items()
        mounted = {mount["mountPath"] for mount in container(one)["volumeMounts"]}
        assert mounted >= {"/tmp", "/dev/shm"}
    assert "models" not in {
        volume["name"] for volume in pod(manifest["spec"]["rayClusterConfig"]["headGroupSpec"])["volumes"]
    }


def test_secrets_and_caches_reach_every_pod(tmp_path: Path):
    path = copy_example("demo", tmp_path)
    block = plain(
        secret_env={"AWS_SECRET_ACCESS_KEY": {"secret": "s3", "key": "secret"}},
        env={"AWS_REGION": "eu-central-1"},
        models={"claim": "models", "mount_path": "/data", "sub_path": "v1"},
    )
    data = yaml.safe_load(path.read_text())
    data["meta"]["model"] = {"hub": "org/meta"}
    data["experts"]["roman"]["model"] = {"uri": "s3://bucket/roman"}
    manifest = build_rayservice(config_of(path, meta=data["meta"], experts=data["experts"], kubernetes=block))
    found = container(groups(manifest)[0])
    secret = {"secretKeyRef": {"name": "s3", "key": "secret"}}
    assert {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": secret} in found["env"]
    for name, value in {"AWS_REGION": "eu-central-1", "HF_HUB_CACHE": "/data/hub"}.items():
        assert {"name": name, "value": value} in found["env"]
    (cache,) = (one["value"] for one in found["env"] if one["name"] == "ETR_CACHE_DIR")
    assert cache in {mount["mountPath"] for mount in found["volumeMounts"]}
    models = {"name": "models", "mountPath": "/data", "subPath": "v1", "readOnly": True}
    assert models in found["volumeMounts"]


def test_a_file_without_the_block_cannot_be_rendered(tmp_path: Path):
    problem = refused(copy_example("demo", tmp_path), kubernetes=None)
    assert problem.startswith("kubernetes: is required for Kubernetes")


def test_a_name_that_kubernetes_does_not_take_needs_one_for_the_service(tmp_path: Path):
    path = copy_example("demo", tmp_path)
    named = build_rayservice(config_of(path, name="My_Models.v2", kubernetes=plain()))
    assert named["metadata"]["name"] == "my-models-v2"
    with pytest.raises(ConfigError, match=r"metadata.name: '7b' is no name of a service"):
        render(config_of(path, name="7b"))


def served_by(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
