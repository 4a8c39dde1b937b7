"""cluster.yaml → RayService: the same text each time, and what runs is what is rendered."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.cli.render import app as render_command
from cluster.config.cluster_config import load_config
from cluster.errors import ConfigError
from cluster.haproxy_command import PATH_VARIABLE
from cluster.kuberay.render import build_rayservice, rayservice_text, render, serve_text
from cluster.ray_env import RAY_ENV, RAY_WORKER_ENV
from cluster.serve.connect import connect_to
from cluster.serve.deploy_config import build_serve_config
from examples.gpu.samples import EXAMPLES
from tests.conftest import Served
from tests.support.k8s_world import (
    K8S,
    REPOSITORY,
    config_of,
    container,
    copy_example,
    groups,
    manifest_of,
    plain,
    pod,
    refused,
)


def test_every_sample_is_up_to_date(tmp_path: Path):
    for name in EXAMPLES:
        (tmp_path / name).mkdir()
        config, written = copy_example(name, tmp_path / name), tmp_path / f"{name}.yaml"
        result = CliRunner().invoke(render_command, ["k8s", str(config), "-o", str(written)])
        assert result.exit_code == 0, result.output
        assert written.read_bytes() == (K8S / "samples" / f"{name}.yaml").read_bytes(), name


def test_the_command_prints_if_no_file_is_named(tmp_path: Path):
    config = copy_example("seven_models", tmp_path)
    result = CliRunner().invoke(render_command, ["k8s", str(config)])
    assert result.stdout == render(load_config(config, models_required=False))
    refused = CliRunner().invoke(render_command, ["k8s", str(config), "-o", str(tmp_path)])
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr


def test_an_incremental_upgrade_is_the_operators_strategy_of_that_name(tmp_path: Path):
    upgrade = {"gateway_class": "istio", "max_surge_percent": 25, "step_percent": 5, "interval_s": 60}
    config = config_of(
        copy_example("seven_models", tmp_path), kubernetes={"image": "i:1", "incremental_upgrade": upgrade}
    )
    assert build_rayservice(config)["spec"]["upgradeStrategy"] == {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": "istio",
            "maxSurgePercent": 25,
            "stepSizePercent": 5,
            "intervalSeconds": 60,
        },
    }


def test_the_demo_for_kubernetes_differs_only_in_paths_and_host():
    here = yaml.safe_load((REPOSITORY / "examples/smollm2/cluster.yaml").read_text())
    text = EXAMPLES["demo"][0].read_text().replace("/opt/etr/demo/smollm2", "../../.cache/smollm2")
    there = yaml.safe_load(text.replace("/opt/etr/demo/", ""))
    assert there.pop("kubernetes")
    assert there | {"http": here["http"]} == here


def test_the_order_of_keys_in_the_file_does_not_change_the_manifest(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    data = yaml.safe_load(path.read_text())
    before = render(load_config(path, models_required=False))
    assert render(config_of(path, **{key: data[key] for key in reversed(data)})) == before


def test_the_manifest_has_the_deploy_config_that_etr_apply_sends(tmp_path: Path):
    path = copy_example("gpu", tmp_path)
    manifest = build_rayservice(load_config(path, models_required=False), table_version=7)
    sent = build_serve_config(load_config(path, models_required=False), table_version=7)
    assert yaml.safe_load(manifest["spec"]["serveConfigV2"]) == sent


@pytest.mark.cluster
def test_serve_runs_the_configs_that_the_manifest_has(served: Served, tmp_path: Path):
    """Serve keeps the config it was given for each application: the rendered ones are those."""
    path = tmp_path / "cluster.yaml"
    data = yaml.safe_load(served.config.source.read_text()) | {"kubernetes": {"image": "etr:test"}}
    path.write_text(yaml.safe_dump(data))
    manifest = build_rayservice(load_config(path, models_required=False))
    rendered = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    with connect_to(served.head) as client:
        running = client.details().applications
    configs = {app["name"]: app for app in rendered["applications"]}
    assert {name: app.deployed_app_config for name, app in running.items()} == configs


def test_a_loopback_address_becomes_a_wildcard(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    deploy = served_by(build_rayservice(config_of(path, http={"host": "127.0.0.1", "port": 8123})))
    assert deploy["http_options"] == {"host": "0.0.0.0", "port": 8123}
    assert deploy["proxy_location"] == "EveryNode"
    problem = refused(path, http={"host": "10.0.0.7"})
    assert problem == "http.host: a pod need not have the address 10.0.0.7; use 0.0.0.0"


def test_pods_end_only_after_their_answers(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    routing = {"deadlines": {"total_s": 900.5, "wake_s": 100.0}}
    for one in groups(build_rayservice(config_of(path, routing=routing))):
        assert pod(one)["terminationGracePeriodSeconds"] == 1061
        drain_s = int(container(one)["lifecycle"]["preStop"]["exec"]["command"][1])
        assert 1000.5 < drain_s < 1061
    problem = refused(path, kubernetes=plain(termination_grace_s=1060))
    assert problem.startswith("kubernetes.termination_grace_s: 1060 would cut off answers")
    long = build_rayservice(config_of(path, kubernetes=plain(termination_grace_s=4000)))
    assert pod(groups(long)[0])["terminationGracePeriodSeconds"] == 4000


def test_pods_outlive_the_longest_answer_even_if_models_drain_shorter(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
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
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]
    for one in [head, *groups(manifest)]:
        assert pod(one)["securityContext"]["runAsNonRoot"] is True
        assert pod(one)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(one)["securityContext"]["allowPrivilegeEscalation"] is False
        assert container(one)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        variables = {variable["name"]: variable.get("value") for variable in container(one)["env"]}
        fixed = {"HF_HUB_OFFLINE": "1", PATH_VARIABLE: "/opt/etr/bin/etr-haproxy"}
        assert variables.items() >= (RAY_ENV | fixed).items()
        assert (variables.items() >= RAY_WORKER_ENV.items()) is (one is not head)
        mounted = {mount["mountPath"] for mount in container(one)["volumeMounts"]}
        assert mounted >= {"/tmp", "/dev/shm"}
    assert "models" not in {
        volume["name"] for volume in pod(manifest["spec"]["rayClusterConfig"]["headGroupSpec"])["volumes"]
    }


def test_secrets_and_caches_reach_every_pod(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
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


WORDS = ("y", "N", "on", "Off", "null", "~", "True", "=", "<<", "")
NUMBERS = (
    "08",
    "1e3",
    "12e5",
    "0o17",
    "0x1F",
    "1_000",
    "1:30",
    "+1",
    ".5",
    "5.",
    "-.inf",
    ".NaN",
    "2001-01-01",
)
AMBIGUOUS = (*WORDS, *NUMBERS)
UNAMBIGUOUS = ("yes-men", "registry.example.com/etr:1", "/models", "NVIDIA-L40S", "nothing", "token", "7-zip")


def test_a_text_that_another_yaml_reader_takes_for_a_number_or_a_bool_is_quoted():
    for write in (rayservice_text, serve_text):
        for text in (*AMBIGUOUS, *UNAMBIGUOUS):
            scalar = yaml.compose(write({"env": text})).value[0][1]  # type: ignore[union-attr]
            assert (scalar.value, scalar.tag) == (text, "tag:yaml.org,2002:str")
            assert (scalar.style == "'") == (text in AMBIGUOUS or text[0].isdigit()), text
        (key, _) = yaml.compose(write({"on": "x"})).value[0]  # type: ignore[union-attr]
        assert key.style == "'"


@given(text=st.text(max_size=6))
def test_a_text_without_quotes_is_text_to_every_yaml_reader(text: str):
    """go-yaml takes a plain scalar for another type only by its first character, or as one of these words."""
    scalar = yaml.compose(serve_text({"key": text})).value[0][1]  # type: ignore[union-attr]
    assert scalar.value == text
    if scalar.style is None:
        assert text[0] not in "0123456789+-.~=<"
        assert text.lower() not in {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")
def test_kubectl_reads_back_the_texts_that_were_written():
    variables = [{"name": f"V{number}", "value": text} for number, text in enumerate(AMBIGUOUS)]
    container = {"name": "c", "image": "i", "env": variables}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    command = ["kubectl", "annotate", "--local", "--dry-run=client", "-f", "-", "a=b", "-o", "json"]
    done = subprocess.run(command, input=rayservice_text(pod), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["spec"]["containers"][0]["env"]
    assert [variable.get("value", "") for variable in found] == list(AMBIGUOUS)


def test_a_manifest_is_checked_before_etr_apply_sends_it(tmp_path: Path):
    """`etr apply --rayservice` sends what `build_rayservice` returns; the operator reports nothing."""
    path = copy_example("seven_models", tmp_path)
    with pytest.raises(ConfigError, match=r"metadata.name: '7b' is not a valid name of a service"):
        build_rayservice(config_of(path, name="7b", kubernetes=plain()))


def test_a_file_without_the_block_cannot_be_rendered(tmp_path: Path):
    problem = refused(copy_example("seven_models", tmp_path), kubernetes=None)
    assert problem.startswith("kubernetes: is required for Kubernetes")


def test_a_cluster_name_that_kubernetes_does_not_accept_needs_a_service_name(tmp_path: Path):
    path = copy_example("seven_models", tmp_path)
    named = build_rayservice(config_of(path, name="My_Models.v2", kubernetes=plain()))
    assert named["metadata"]["name"] == "my-models-v2"
    with pytest.raises(ConfigError, match=r"metadata.name: '7b' is not a valid name of a service"):
        render(config_of(path, name="7b"))


def served_by(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
