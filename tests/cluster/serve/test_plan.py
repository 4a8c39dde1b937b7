"""What a plan says of every application, compared with what Serve says it has."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.serve.deploy_config import build_serve_config
from cluster.serve.plan import RESTARTING, AppChange, Change, Plan, compare
from cluster.serve.serve_details import AppDetails, ServeDetails
from tests.cluster.serve.test_deploy_config import load, make_token, make_world


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    return make_world(tmp_path, "roman", "morse")


def serve_runs(deploy: dict[str, Any], **statuses: str) -> ServeDetails:
    """Serve's details when everything runs; `statuses` names applications that do not."""
    return ServeDetails.model_validate(_details(deploy, **statuses))


def _details(deploy: dict[str, Any], **statuses: str) -> dict[str, Any]:
    return {
        "http_options": deploy["http_options"],
        "applications": {
            app["name"]: {
                "status": statuses.get(app["name"].replace("-", "_"), "RUNNING"),
                "deployed_app_config": copy.deepcopy(app),
                "deployments": {one["name"]: {"replicas": []} for one in app["deployments"]},
            }
            for app in deploy["applications"]
        },
    }


NOTHING = ServeDetails(applications={})


def by_app(plan: Plan) -> dict[str, AppChange]:
    return {change.app: change for change in plan.changes}


def changed(tmp_path: Path, world: dict[str, Any], running: ServeDetails) -> dict[str, AppChange]:
    """The changes other than KEEP."""
    plan = compare(build_serve_config(load(tmp_path, world)), running)
    return {app: change for app, change in by_app(plan).items() if change.change is not Change.KEEP}


@pytest.fixture
def running(tmp_path: Path, world: dict[str, Any]) -> ServeDetails:
    return serve_runs(build_serve_config(load(tmp_path, world)))


def test_a_first_plan_starts_everything(tmp_path: Path, world: dict[str, Any]):
    plan = compare(build_serve_config(load(tmp_path, world)), NOTHING)
    assert {change.change for change in plan.changes} == {Change.START}
    assert list(by_app(plan)) == ["expert-morse", "expert-roman", "meta", "router"]
    assert plan.first is None


def test_the_same_file_again_keeps_everything(tmp_path: Path, world: dict[str, Any], running: ServeDetails):
    plan = compare(build_serve_config(load(tmp_path, world)), running)
    assert plan.changes_nothing
    assert plan.first is None


def test_a_limit_changes_one_application_in_place(
    tmp_path: Path, world: dict[str, Any], running: ServeDetails
):
    world["experts"]["roman"]["autoscaling"] = {"max_replicas": 3}
    assert changed(tmp_path, world, running) == {
        "expert-roman": AppChange("expert-roman", Change.UPDATE, ("autoscaling_config.max_replicas: 1 → 3",))
    }


def test_a_running_model_is_not_scaled_back_to_its_initial_replicas(tmp_path: Path, world: dict[str, Any]):
    world["meta"]["autoscaling"] = {"min_replicas": 1, "initial_replicas": 2, "max_replicas": 4}
    first = build_serve_config(load(tmp_path, world))
    assert _meta_scaling(first)["initial_replicas"] == 2
    assert compare(build_serve_config(load(tmp_path, world)), serve_runs(first)).changes_nothing
    make_token(tmp_path, "roman", seed=77)
    later = compare(build_serve_config(load(tmp_path, world)), serve_runs(first)).deploy
    assert "initial_replicas" not in _meta_scaling(later)
    assert compare(build_serve_config(load(tmp_path, world)), serve_runs(later)).changes_nothing


def _meta_scaling(deploy: dict[str, Any]) -> dict[str, Any]:
    (meta,) = [app for app in deploy["applications"] if app["name"] == "meta"]
    scaling: dict[str, Any] = meta["deployments"][0]["autoscaling_config"]
    return scaling


@pytest.mark.parametrize(
    ("block", "value", "why"),
    [
        ("engine", {"max_batch_tokens": 64}, "args.engine.max_batch_tokens: 512 → 64"),
        ("resources", {"num_cpus": 2.0}, "ray_actor_options.num_cpus: 1.0 → 2.0"),
        ("resources", {"custom": {"big": 1.0}}, "ray_actor_options.resources.big: added: 1.0"),
    ],
)
def test_a_setting_of_the_constructor_restarts_that_application_alone(
    tmp_path: Path, world: dict[str, Any], running: ServeDetails, block: str, value: Any, why: str
):
    world["experts"]["roman"][block] = value
    changes = changed(tmp_path, world, running)
    assert {app: change.change for app, change in changes.items()} == {"expert-roman": Change.RESTART}
    assert why in changes["expert-roman"].why


def test_a_new_token_is_swapped_in_place_and_not_printed(
    tmp_path: Path, world: dict[str, Any], running: ServeDetails
):
    make_token(tmp_path, "roman", seed=77)
    assert changed(tmp_path, world, running) == {
        "meta": AppChange("meta", Change.UPDATE, ("tokens.roman: changed",))
    }


def test_a_new_expert_starts_one_application_and_updates_two(
    tmp_path: Path, world: dict[str, Any], running: ServeDetails
):
    make_token(tmp_path, "law", seed=5)
    world["experts"]["law"] = world["experts"]["roman"] | {"token": "tokens/law.safetensors"}
    changes = changed(tmp_path, world, running)
    assert {app: change.change for app, change in changes.items()} == {
        "expert-law": Change.START,
        "meta": Change.UPDATE,
        "router": Change.UPDATE,
    }
    assert changes["meta"].why == ("tokens.law: added",)
    assert "experts.law.app: added: expert-law" in changes["router"].why


def test_a_removed_expert_runs_until_the_routers_have_the_new_table(
    tmp_path: Path, world: dict[str, Any], running: ServeDetails
):
    del world["experts"]["morse"]
    plan = compare(build_serve_config(load(tmp_path, world)), running)
    assert by_app(plan)["expert-morse"].change is Change.STOP
    assert plan.first is not None
    first = {app["name"]: app for app in plan.first["applications"]}
    assert first.pop("expert-morse") == running.applications["expert-morse"].deployed_app_config
    assert list(first.values()) == plan.deploy["applications"]
    assert set(first["router"]["deployments"][0]["user_config"]["experts"]) == {"roman"}


def test_a_failed_application_is_removed_and_started_again(tmp_path: Path, world: dict[str, Any]):
    deploy = build_serve_config(load(tmp_path, world))
    plan = compare(deploy, serve_runs(deploy, expert_roman="DEPLOY_FAILED"))
    assert by_app(plan)["expert-roman"] == AppChange(
        "expert-roman", Change.START, ("it failed and is tried again",)
    )
    assert plan.first is not None
    assert [app["name"] for app in plan.first["applications"]] == ["expert-morse", "meta", "router"]


def test_a_failed_update_whose_old_replicas_still_run_is_not_removed(tmp_path: Path, world: dict[str, Any]):
    deploy = build_serve_config(load(tmp_path, world))
    details = _details(deploy, expert_roman="DEPLOY_FAILED")
    details["applications"]["expert-roman"]["deployments"]["Model"]["replicas"] = [{"state": "RUNNING"}]
    assert compare(deploy, ServeDetails.model_validate(details)).first is None


def test_an_application_that_is_being_deleted_counts_as_gone(tmp_path: Path, world: dict[str, Any]):
    deploy = build_serve_config(load(tmp_path, world))
    plan = compare(deploy, serve_runs(deploy, expert_roman="DELETING"))
    assert by_app(plan)["expert-roman"].change is Change.START


def test_applications_that_etr_did_not_deploy_are_left_alone(
    tmp_path: Path, world: dict[str, Any], running: ServeDetails
):
    mine = AppDetails(status="RUNNING", deployed_app_config=None)
    running = ServeDetails(applications={**running.applications, "mine": mine})
    assert changed(tmp_path, world, running) == {}


VALUES = st.none() | st.integers() | st.text(max_size=60)
TREES = st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3))
KEYS = ("import_path", "args", "max_ongoing_requests", "autoscaling_config", "user_config")
APPS = st.dictionaries(st.sampled_from(KEYS), TREES)


@pytest.mark.parametrize(
    "deployments",
    [{}, {"deployments": []}, {"deployments": [{"name": "M", "user_config": {"table_version": "x"}}]}],
    ids=["none", "empty", "of another kind"],
)
def test_a_router_that_etr_did_not_deploy_is_replaced(
    tmp_path: Path, world: dict[str, Any], deployments: dict[str, Any]
):
    config = {"name": "router", "import_path": "m:app", **deployments}
    app = {"status": "RUNNING", "deployed_app_config": config}
    running = ServeDetails.model_validate({"applications": {"router": app}})
    assert changed(tmp_path, world, running)["router"].change is Change.RESTART


@given(now=APPS, wanted=APPS)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_plan_keeps_exactly_what_is_the_same_and_restarts_only_for_what_restarts(now: Any, wanted: Any):
    deploy = {"applications": [{"name": "x", "deployments": [], **wanted}]}
    deployed = {"name": "x", "deployments": [], **now}
    app = AppDetails(status="RUNNING", deployed_app_config=deployed)
    running = ServeDetails(applications={"x": app})
    change = by_app(compare(deploy, running))["x"]
    assert (change.change is Change.KEEP) == (now == wanted)
    restarts = any(now.get(key) != wanted.get(key) for key in KEYS if key.startswith(RESTARTING))
    missing = any((key in now) != (key in wanted) for key in KEYS if key.startswith(RESTARTING))
    assert (change.change is Change.RESTART) == (restarts or missing)
