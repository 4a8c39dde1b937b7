"""`etr status` as a command: rates between looks, the table, the JSON, and watching."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app as etr
from cluster.errors import FAILED_APP_REMEDY
from cluster.status.collector import StatusCollector
from cluster.status.model_status import MAKE_ROOM
from cluster.status.router_view import tokens_per_s
from router.load_report import ModelLoad
from tests.fakes import replicas as fake_replicas
from tests.fakes.dashboard import (
    FakeDashboard,
    application,
    cluster_of,
    dashboard,
    deployment,
    expert,
    replica,
)

TRACEBACK = (
    "Failed. Error:\nTraceback:\nexperts.errors.ModelLoadError: models/roman: no weights; copy them there\n"
)
WAITING = replica("w", state="STARTING", node=None)
UP = replica("up")


def load(*, time_s: float, num_tokens: int, running: int = 1, queued: int = 0) -> dict[str, Any]:
    report = fake_replicas.replica("r1", time_s=time_s, num_tokens=num_tokens)
    shown = {name: getattr(report, name) for name in ("replica", "time_s", "num_running", "num_waiting")}
    shown |= {"num_tokens": num_tokens, "cache_use": 0.5}
    return {"num_running": running, "num_queued": queued, "num_tokens": num_tokens, "replicas": [shown]}


def test_the_second_status_has_the_rate():
    stats = [
        {"chem": load(time_s=50.0, num_tokens=1000), "meta": None},
        {"chem": load(time_s=52.0, num_tokens=1090, running=3, queued=2), "meta": None},
    ]
    fake = cluster_of(expert(UP), application("meta", deployment(UP)), stats=stats)
    with dashboard(fake) as client:
        collector = StatusCollector(client)
        first, second = ({model.name: model for model in collector.collect().models} for _ in range(2))
    assert (first["chem"].num_running, first["chem"].tokens_per_s) == (1, None)
    assert (second["chem"].num_running, second["chem"].num_queued) == (3, 2)
    assert second["chem"].tokens_per_s == pytest.approx(45.0)
    assert (second["meta"].num_running, second["meta"].tokens_per_s) == (None, None)


def total(*replicas: tuple[str, float, int]) -> ModelLoad:
    parts = [fake_replicas.replica(name, time_s=at_s, num_tokens=num) for name, at_s, num in replicas]
    return ModelLoad(0, 0, sum(part.num_tokens for part in parts), tuple(parts))


@pytest.mark.parametrize(
    ("before", "now", "rate"),
    [
        (total(("a", 10, 100), ("b", 900, 5)), total(("a", 12, 140), ("b", 901, 15)), 30.0),
        (total(("a", 10, 100)), total(("a", 12, 140), ("b", 3, 9999)), 20.0),  # one was added
        (total(("a", 10, 100), ("b", 5, 9999)), total(("a", 12, 140)), 20.0),  # one was removed
        (total(("a", 10, 100)), total(("b", 12, 140)), None),  # replaced
        (total(("a", 10, 100)), total(("a", 10, 100)), None),  # the same report again
        (total(("a", 10, 100)), total(("a", 12, 40)), None),  # its engine was restarted
        (total(("a", 10, 100)), total(), 0.0),  # scaled to zero
        (None, total(("a", 10, 100)), None),
        (total(("a", 10, 100)), None, None),
    ],
)
def test_rates_are_per_replica_and_by_its_own_clock(
    before: ModelLoad | None, now: ModelLoad | None, rate: float | None
):
    assert tokens_per_s(before, now) == rate


@pytest.fixture
def etr_status(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("cluster.cli.status.MIN_PERIOD_S", 0.0)

    def run(fake: FakeDashboard, *options: str) -> str:
        with dashboard(fake) as client:
            result = CliRunner().invoke(etr, ["status", "--address", client.address, *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def cells(line: str) -> tuple[str, list[str]]:
    first, *rest = [cell.strip() for cell in line.strip("│").split("│")]
    return first, rest


def test_the_table_names_each_problem_once(etr_status: Callable[..., str]):
    apps = [
        application(name, deployment(WAITING, status="UPDATING", needs={"GPU": 1.0}), status="DEPLOYING")
        for name in ("expert-law", "expert-math")
    ]
    bad = expert(app_status="DEPLOY_FAILED", status="DEPLOY_FAILED", message=TRACEBACK)
    stats = [{"chem": load(time_s=at_s, num_tokens=int(20 * at_s), queued=4)} for at_s in (1.0, 3.0)]
    shown = etr_status(cluster_of(bad, *apps, stats=stats))
    rows = dict(cells(line) for line in shown.splitlines() if "│" in line)
    assert rows["chem"] == ["failed", "0/1", "1", "4", "20", "-"]
    assert rows["law"] == ["unscheduled", "0/1", "-", "-", "-", "-"]
    assert rows["router"] == ["ready", "1/1", "-", "-", "-", "10.0.0.1"]
    unwrapped = " ".join(shown.split())
    assert unwrapped.count(f"law, math: no node offers GPU 1 (most: 0); {MAKE_ROOM}") == 1
    error = "experts.errors.ModelLoadError: models/roman: no weights; copy them there"
    assert unwrapped.count(f"chem: {error}; {FAILED_APP_REMEDY}") == 1


def test_the_json_has_a_stable_shape(etr_status: Callable[..., str]):
    stats = [{"chem": load(time_s=at_s, num_tokens=int(20 * at_s))} for at_s in (1.0, 3.0)]
    fake = cluster_of(expert(UP), stats=stats)
    shown = json.loads(etr_status(fake, "--json"))
    assert set(shown) == {"time_s", "url", "models", "notes"}
    assert shown["url"] == f"http://127.0.0.1:{fake.port}"
    assert shown["models"][1] == {
        "name": "chem",
        "app": "expert-chem",
        "state": "ready",
        "num_wanted": 1,
        "num_ready": 1,
        "num_running": 1,
        "num_queued": 0,
        "tokens_per_s": 20.0,
        "error": "",
        "waits_for": "",
        "remedy": "",
        "replicas": [{"state": "RUNNING", "pid": 7, "node_ip": "10.0.0.1", "id": "up", "node_id": "head"}],
        "pool": "",
        "ejected": {},
    }


def test_an_empty_cluster_is_reported(etr_status: Callable[..., str]):
    assert etr_status(FakeDashboard()) == "nothing is deployed; run `etr apply`\n"
    assert json.loads(etr_status(FakeDashboard(), "--json"))["models"] == []


def test_watch_continues_until_interrupted(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []

    def interrupted(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("cluster.cli.status.time.sleep", interrupted)
    stats = [{"chem": load(time_s=float(i), num_tokens=i)} for i in range(9)]
    with dashboard(cluster_of(expert(UP), stats=stats)) as client:
        result = CliRunner().invoke(etr, ["status", "--watch", "--json", "--address", client.address])
    assert result.exit_code == 130
    assert pauses == [1.2, 2.0, 2.0, 2.0]
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["models"][1]["tokens_per_s"] for line in lines] == [1.0, 1.0, 1.0]
