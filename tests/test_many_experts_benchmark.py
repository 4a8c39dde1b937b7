"""The benchmark of many experts asks a meta that tells them apart, and changes one of them alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.crowding.size import WAYS, Size, write_picture
from benchmarks.crowding.world import SHARED, Crowd, own_apps, shared_app, without
from cluster.epoch import tables
from experts.checkpoint import Checkpoint
from experts.learn import Query, RouteScores, compute_states, judge
from experts.token import ExpertToken


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    return Crowd.made(tmp_path_factory.mktemp("crowd"), 12)


def test_each_question_goes_to_its_own_expert(crowd: Crowd):
    model, renderer = Checkpoint(str(crowd.folder / "meta")).load()
    queries = [Query(({"role": "user", "content": crowd.question(name)},), name) for name in crowd.names]
    tokens = [ExpertToken.load(crowd.folder / "tokens" / f"{name}.safetensors") for name in crowd.names]
    assert RouteScores.of(judge(compute_states(model, renderer, queries), tokens)).accuracy == 1.0


@pytest.mark.parametrize("build", [shared_app, own_apps])
def test_one_expert_less_is_the_same_cluster_without_it(crowd: Crowd, tmp_path: Path, build):
    deploy = build(crowd, tmp_path, 12)
    gone = crowd.names[-1]
    before, after = (tables(one["applications"]) for one in (deploy, without(deploy, gone, epoch=7)))
    assert (before["meta"]["tokens"].keys() - after["meta"]["tokens"].keys()) == {gone}
    assert (before["router"]["experts"].keys() - after["router"]["experts"].keys()) == {gone}
    assert {table["epoch"] for table in after.values()} == {7}
    apps = {app["name"] for app in deploy["applications"]}
    assert apps == {"meta", "router"} | (
        {SHARED} if build is shared_app else {f"expert-{name}" for name in crowd.names}
    )


def test_growth_is_drawn_for_each_kind_of_cluster(tmp_path: Path):
    sizes = [
        Size(num, put_s=[0.1], seen_s=[0.5], rss_mb={"meta": 400.0, "router": 200.0}) for num in (10, 100)
    ]
    for size in sizes:
        for way in WAYS:
            size.first_ms[way], size.whole_ms[way] = [1.0], [2.0]
    assert write_picture({"one": sizes, "each": sizes}, tmp_path).stat().st_size > 10_000
