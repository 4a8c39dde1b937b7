"""Changing a live RayService: in place or not at all, over nobody else's change, watched to its end."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli.main import app as etr
from cluster.errors import (
    ApplyTimeout,
    ConfigError,
    DeployFailed,
    KubectlMissing,
    KubernetesError,
    NewClusterNeeded,
    RayServiceConflict,
)
from cluster.kuberay.apply import patch_rayservice, plan_rayservice
from cluster.kuberay.kubectl import RAYSERVICE, Kubectl
from cluster.kuberay.render import serve_text
from cluster.serve.app_status import AppEvent
from tests.cluster.serve.test_deploy_config import deployment
from tests.support.k8s_world import copy_example
from tests.support.live_rayservice import Live, install_kubectl


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    """The demo runs as RayService default/demo, and `kubectl` on PATH reaches it."""
    state, bin_folder = tmp_path / "state", tmp_path / "bin"
    state.mkdir()
    bin_folder.mkdir()
    install_kubectl(bin_folder)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_KUBECTL_FOLDER", str(state))
    config = copy_example("seven_models", tmp_path)
    service = Live(state, config)
    service.create()
    return service


def test_nothing_changed_changes_nothing(live: Live):
    before = live.service
    live.patch()
    assert live.service["spec"] == before["spec"]
    assert live.service["metadata"]["generation"] == 1
    assert "apply" not in live.calls


def test_an_expert_with_an_existing_shape_is_added_in_place(live: Live):
    live.add_expert("latin", resources={"num_cpus": 0.25}, autoscaling={"max_replicas": 9})
    assert live.groups() == {"cpu1": (1, 8), "cpu250m": (1, 2)}
    events = live.patch()
    assert AppEvent("expert-latin", "DEPLOYING") in events
    assert AppEvent("expert-latin", "RUNNING") in events
    assert live.clusters == ["demo-1"]
    # KubeRay itself would have left these numbers as they were.
    assert live.groups() == {"cpu1": (1, 17), "cpu250m": (1, 3)}
    live.patch()
    assert live.calls.count("apply") == 1


def test_the_table_version_grows_with_every_change(live: Live):
    assert live.table_version == 1
    live.add_expert("latin", resources={"num_cpus": 0.25})
    live.patch()
    assert live.table_version == 2
    live.patch()
    assert live.table_version == 2


def test_an_expert_with_a_new_shape_is_added_in_place_anywhere_in_the_file(live: Live):
    live.add_expert("big", resources={"num_gpus": 1})
    live.patch()
    experts = live.data["experts"]
    live.data["experts"] = {}
    live.add_expert("half", resources={"num_gpus": 0.5})
    live.data["experts"] |= experts
    live.patch()
    assert live.clusters == ["demo-1"]
    assert list(live.groups()) == ["cpu1", "cpu250m", "gpu1-cpu1", "gpu500m-cpu1"]


def test_removing_the_last_expert_of_a_shape_leaves_a_group_without_pods(live: Live):
    live.add_expert("big", resources={"num_gpus": 1})
    live.patch()
    del live.data["experts"]["big"]
    events = live.patch()
    assert [event.status for event in events if event.app == "expert-big"][-2:] == ["DELETING", "STOPPED"]
    assert live.clusters == ["demo-1"]
    assert live.groups()["gpu1-cpu1"] == (0, 0)
    live.add_expert("big", resources={"num_gpus": 1})
    live.patch()
    assert live.clusters == ["demo-1"]
    assert live.groups()["gpu1-cpu1"] == (1, 1)


def test_a_removed_adapter_leaves_the_table_before_its_pool_unloads_it(live: Live):
    engine = {"kind": "vllm", "max_adapters": 2}
    live.data["pools"] = {"base": {"model": {"path": "/opt/etr/demo/models/base"}, "engine": engine}}
    adapter = {"path": "/opt/etr/demo/adapters/deeds", "pool": "base"}
    live.data["experts"]["deeds"] = {"adapter": adapter, "token": "tokens/deeds.safetensors"}
    live.patch()
    del live.data["experts"]["deeds"]
    live.patch()
    assert live.clusters == ["demo-1"]
    first, last = (yaml.safe_load(spec["serveConfigV2"]) for spec in live.applied[-2:])
    pools = [deployment(deploy, "pool-base")["user_config"]["adapters"] for deploy in (first, last)]
    assert pools == [{"deeds": {"source": adapter["path"]}}, {}]
    assert "deeds" not in deployment(first, "router")["user_config"]["experts"]


def test_a_removed_expert_leaves_the_table_before_it_stops(live: Live):
    """And its pods stay until it has written what it writes: the numbers fall only in the end."""
    live.add_expert("big", resources={"num_gpus": 1}, autoscaling={"min_replicas": 2, "max_replicas": 2})
    live.patch()
    del live.data["experts"]["big"]
    live.patch()
    first, last = live.applied[-2:]
    for spec, apps, pods in ((first, {"expert-big"}, (2, 2)), (last, set(), (0, 0))):
        deploy = yaml.safe_load(spec["serveConfigV2"])
        assert {app["name"] for app in deploy["applications"]} & {"expert-big"} == apps
        (router,) = (app for app in deploy["applications"] if app["name"] == "router")
        assert "big" not in router["deployments"][0]["user_config"]["experts"]
        group = spec["rayClusterConfig"]["workerGroupSpecs"][-1]
        assert (group["groupName"], group["minReplicas"], group["maxReplicas"]) == ("gpu1-cpu1", *pods)
    assert live.groups()["gpu1-cpu1"] == (0, 0)
    assert live.table_version == 3


def test_a_change_that_needs_a_new_cluster_is_refused(live: Live):
    live.data["kubernetes"]["image"] = "expert-token-routing:new"
    before = live.service
    with pytest.raises(NewClusterNeeded) as caught:
        live.patch()
    assert "headGroupSpec.template.spec.containers.ray-head.image: expert-token-routing:demo →" in str(
        caught.value
    )
    assert live.service == before
    assert "apply" not in live.calls


def test_apply_waits_for_a_new_cluster_that_is_allowed(live: Live):
    live.data["kubernetes"]["image"] = "expert-token-routing:new"
    live.patch(allow_new_cluster=True)
    assert live.clusters == ["demo-1", "demo-2"]
    assert live.service["status"]["activeServiceStatus"]["rayClusterName"] == "demo-2"


def test_a_plan_lists_the_changes_and_makes_none(live: Live):
    live.data["routing"]["call_bias"] = 0.5
    live.add_expert("big", resources={"num_gpus": 1})
    before = live.service
    plan = plan_rayservice("default", "demo", live.manifest())
    assert plan.changes.new_cluster == ()
    assert "worker group gpu1-cpu1: added" in plan.changes.in_place
    assert any(line.startswith("serveConfigV2: ") for line in plan.changes.in_place)
    assert live.service == before


@pytest.mark.parametrize("generation", [1, 2], ids=["status", "spec"])
def test_a_change_of_the_status_is_no_conflict_but_one_of_the_spec_is(
    live: Live, monkeypatch: pytest.MonkeyPatch, generation: int
):
    """Between our look and our change somebody writes: the operator its notes, or a person another spec."""
    apply = Kubectl.apply
    interruptions = [generation]

    def interrupted(self: Kubectl, manifest: Any, *, dry_run: bool = False, take_over: bool = False) -> Any:
        if not dry_run and interruptions:
            path = live.folder / f"{RAYSERVICE}.default.demo.json"
            other = json.loads(path.read_text())
            other["metadata"] |= {"resourceVersion": "77", "generation": interruptions.pop()}
            path.write_text(json.dumps(other))
        return apply(self, manifest, dry_run=dry_run, take_over=take_over)

    monkeypatch.setattr(Kubectl, "apply", interrupted)
    live.add_expert("latin", resources={"num_cpus": 0.25})
    if generation == 1:
        live.patch()
        return
    with pytest.raises(RayServiceConflict, match="the RayService was changed meanwhile"):
        live.patch()
    assert "expert-latin" not in live.service["spec"]["serveConfigV2"]


def test_another_configuration_that_is_applied_meanwhile_is_a_conflict(live: Live):
    live.add_expert("latin", resources={"num_cpus": 0.25})

    def overrule(event: AppEvent) -> None:
        path = live.folder / f"{RAYSERVICE}.default.demo.json"
        other = json.loads(path.read_text())
        deploy = yaml.safe_load(other["spec"]["serveConfigV2"])
        other["spec"]["serveConfigV2"] = serve_text(deploy | {"applications": deploy["applications"][1:]})
        path.write_text(json.dumps(other))

    with pytest.raises(RayServiceConflict, match="another configuration was applied meanwhile"):
        patch_rayservice("default", "demo", live.manifest(), overrule, poll_s=0)


def test_fields_of_another_manager_are_taken_only_with_take_over(live: Live):
    live.create(manager="helm")
    live.add_expert("latin", resources={"num_cpus": 0.25})
    with pytest.raises(
        RayServiceConflict,
        match=r'other field managers own fields .*conflict with "helm".*--take-over',
    ):
        live.patch()
    live.patch(take_over=True)
    assert "expert-latin" in live.service["spec"]["serveConfigV2"]


def test_a_failed_expert_is_named_when_the_rest_runs(live: Live):
    (live.folder / "failing").write_text(json.dumps({"expert-latin": "no such folder"}))
    live.add_expert("latin", resources={"num_cpus": 0.25})
    with pytest.raises(DeployFailed, match=r"^expert-latin: no such folder; correct cluster.yaml"):
        live.patch()


def test_a_change_that_the_operator_does_not_see_times_out(live: Live):
    (live.folder / "no-operator").touch()
    live.add_expert("latin", resources={"num_cpus": 0.25})
    with pytest.raises(
        ApplyTimeout, match=r"default/demo: not there after 0 s: waiting for the operator .*KubeRay"
    ):
        live.patch(timeout_s=0)


def test_an_api_server_that_fails_once_does_not_end_the_wait(live: Live):
    live.add_expert("latin", resources={"num_cpus": 0.25})
    away = live.folder / "broken-once"

    def goes_away(event: AppEvent) -> None:
        if event.status == "DEPLOYING":
            away.write_text("Unable to connect to the server: EOF")

    patch_rayservice("default", "demo", live.manifest(), goes_away, poll_s=0)
    assert not away.exists()  # it was asked, and refused
    away.write_text("Unable to connect to the server: EOF")
    with pytest.raises(KubernetesError, match="kubectl get: Unable to connect to the server: EOF"):
        live.patch()


@pytest.mark.parametrize(("namespace", "name"), [("default", "other"), ("other", "demo")])
def test_the_file_must_be_for_that_service(live: Live, namespace: str, name: str):
    with pytest.raises(ConfigError, match=f"is for RayService default/demo, not {namespace}/{name}"):
        patch_rayservice(namespace, name, live.manifest())


def test_a_rayservice_that_does_not_exist_is_not_created(live: Live):
    manifest = copy.deepcopy(live.manifest())
    manifest["metadata"]["name"] = "elsewhere"
    with pytest.raises(KubernetesError, match=r"not found; create it with `etr render k8s`"):
        patch_rayservice("default", "elsewhere", manifest)


def test_a_missing_kubectl_is_named(live: Live, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(live.folder))
    with pytest.raises(KubectlMissing, match="kubectl: no such program; install it"):
        live.patch()


def etr_apply(live: Live, *options: str) -> tuple[int, str]:
    live.manifest()  # writes the file as it is now
    result = CliRunner().invoke(etr, ["apply", str(live.config), *options], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def test_etr_apply_changes_the_named_rayservice(live: Live):
    code, told = etr_apply(live, "--rayservice", "default/demo")
    assert (code, live.table_version) == (0, 1), told
    assert "default/demo now matches" in told
    live.add_expert("latin", resources={"num_cpus": 0.25})
    code, told = etr_apply(live, "--rayservice", "default/demo")
    assert (code, live.table_version) == (0, 2), told
    assert "expert-latin" in told


def test_etr_apply_starts_a_new_cluster_only_if_allowed(live: Live):
    live.data["kubernetes"]["image"] = "registry.example.com/etr:2"
    code, told = etr_apply(live, "--rayservice", "default/demo")
    assert code == 1
    assert "apply with --allow-new-cluster, or undo that" in told
    assert live.clusters == ["demo-1"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--rayservice", "demo"), "'demo' is not of the form NAMESPACE/NAME"),
        (("--take-over",), "need --rayservice; add it"),
        (("--rayservice", "default/demo", "--address", "http://head:8265"), "--address has no effect"),
    ],
)
def test_options_without_effect_are_refused(live: Live, options: tuple[str, ...], complaint: str):
    code, told = etr_apply(live, *options)
    assert code == 2
    assert complaint in told
    assert not (live.folder / "calls").exists()  # kubectl was never run
