"""The benchmark of many experts: its meta tells them apart, and its changes concern one expert."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.many_experts.measurements import MODES, Measurements, write_plot
from benchmarks.many_experts.world import SHARED, ExpertSet, own_apps, shared_app, without
from cluster.serve.serve_details import versioned_configs
from experts.checkpoint import Checkpoint
from experts.learn import Query, RouteScores, compute_states, judge
from experts.token import ExpertToken


@pytest.fixture(scope="module")
def expert_set(tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    return ExpertSet.create(tmp_path_factory.mktemp("expert_set"), 12)


def test_each_question_goes_to_its_own_expert(expert_set: ExpertSet):
    model, renderer = Checkpoint(str(expert_set.folder / "meta")).load()
    queries = [
        Query(({"role": "user", "content": expert_set.question(name)},), name) for name in expert_set.names
    ]
    tokens = [
        ExpertToken.load(expert_set.folder / "tokens" / f"{name}.safetensors") for name in expert_set.names
    ]
    assert RouteScores.of(judge(compute_states(model, renderer, queries), tokens)).accuracy == 1.0


@pytest.mark.parametrize("build", [shared_app, own_apps])
def test_without_removes_exactly_one_expert(expert_set: ExpertSet, tmp_path: Path, build):
    deploy = build(expert_set, tmp_path, 12)
    removed = expert_set.names[-1]
    smaller = without(deploy, removed, table_version=7)
    before, after = (versioned_configs(config["applications"]) for config in (deploy, smaller))
    assert (before["meta"]["tokens"].keys() - after["meta"]["tokens"].keys()) == {removed}
    assert (before["router"]["experts"].keys() - after["router"]["experts"].keys()) == {removed}
    assert {table["table_version"] for table in after.values()} == {7}
    apps = {app["name"] for app in deploy["applications"]}
    assert apps == {"meta", "router"} | (
        {SHARED} if build is shared_app else {f"expert-{name}" for name in expert_set.names}
    )


def test_the_plot_has_a_row_for_each_kind_of_cluster(tmp_path: Path):
    measurements = [
        Measurements(num, put_s=[0.1], effective_s=[0.5], rss_mb={"meta": 400.0, "router": 200.0})
        for num in (10, 100)
    ]
    for measured in measurements:
        for mode in MODES:
            measured.first_ms[mode], measured.whole_ms[mode] = [1.0], [2.0]
    assert write_plot({"one": measurements, "each": measurements}, tmp_path).stat().st_size > 10_000
