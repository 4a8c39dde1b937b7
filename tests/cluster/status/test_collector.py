"""`etr status`: what Serve, the router and the nodes say, in words that a user knows."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from ray.serve.schema import ApplicationDetails
from rich.console import Console

from cluster.cli.print_status import cluster_status
from cluster.errors import FAILED_APP_REMEDY
from cluster.serve.app_status import app_statuses
from cluster.serve.serve_details import ServeDetails
from cluster.status.collector import StatusCollector
from cluster.status.model_status import MAKE_ROOM, SEE_LOG, ClusterStatus, ModelStatus
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
    "The deployment failed to start 3 times in a row. Error:\n"
    "\x1b[36mray::ServeReplica:bad:Model.initialize()\x1b[39m (pid=28405, ip=10.0.0.1)\n"
    '  File "model.py", line 1, in load\n'
    "    raise ModelLoadError(name)\n"
    "experts.errors.ModelLoadError: models/roman: no weights; copy them there\n"
    "two files were looked for\n"
)
WAITING = replica("w", state="STARTING", node=None)
SLOW = "Deployment 'Model' has 1 replicas that have taken more than 30s to be scheduled. Use `ray status`."
UP = replica("up")


def collect(fake: FakeDashboard) -> ClusterStatus:
    with dashboard(fake) as client:
        return StatusCollector(client).collect()


def one(fake: FakeDashboard, name: str) -> ModelStatus:
    (found,) = [model for model in collect(fake).models if model.name == name]
    return found


@pytest.mark.parametrize(
    ("app", "word", "state"),
    [
        (expert(UP), "ready", "ready"),
        (expert(UP), "masked", "masked"),
        (expert(UP), "unavailable", "unavailable"),
        (expert(UP), "failed", "failed"),
        (expert(replica(state="STARTING"), app_status="UNHEALTHY", status="UNHEALTHY"), "failed", "failed"),
        (expert(UP), "waking", "waking"),
        (expert(UP), "asleep", "ready"),
        (expert(UP, app_status="DEPLOYING", status="UPDATING"), "masked", "starting"),
        (expert(UP, WAITING, wanted=2, app_status="DEPLOYING", status="UPSCALING"), "ready", "ready"),
        (expert(wanted=0), "asleep", "asleep"),
        (expert(wanted=0), "waking", "waking"),
        (expert(replica(state="STARTING"), app_status="DEPLOYING", status="UPSCALING"), "asleep", "waking"),
        (expert(replica(state="STARTING"), app_status="DEPLOYING", status="UPDATING"), "masked", "starting"),
        (expert(replica(state="STARTING"), app_status="UNHEALTHY", status="UNHEALTHY"), "masked", "starting"),
        (expert(replica(state="STOPPING"), app_status="UNHEALTHY", status="UNHEALTHY"), "masked", "failed"),
        (expert(UP, app_status="UNHEALTHY", status="UNHEALTHY"), "ready", "ready"),
        (expert(app_status="DEPLOY_FAILED", status="DEPLOY_FAILED"), "masked", "failed"),
        (expert(UP, app_status="DELETING", status="UPDATING"), "ready", "stopping"),
        (application("expert-chem", status="DEPLOYING"), "masked", "starting"),
        (
            expert(WAITING, app_status="DEPLOYING", status="UPDATING", needs={"GPU": 1}),
            "masked",
            "unscheduled",
        ),
    ],
)
def test_the_state_of_a_model(app: ApplicationDetails, word: str, state: str):
    fake = cluster_of(app, health={"status": "ok", "table_version": 3, "experts": {"chem": word}})
    assert one(fake, "chem").state == state


def test_the_meta_answers_or_is_masked_or_has_failed():
    meta = application("meta", deployment(UP))
    assert one(cluster_of(meta), "meta").state == "ready"
    for status, state in (("unavailable", "masked"), ("failed", "failed")):
        assert one(cluster_of(meta, health={"status": status, "experts": {}}), "meta").state == state


def test_a_model_that_can_answer_nothing_is_explained():
    health = {"status": "ok", "table_version": 3, "experts": {"chem": "failed"}}
    chem = one(cluster_of(expert(UP), health=health), "chem")
    assert (chem.error, chem.remedy) == ("none of its replicas can answer, whatever it is asked", SEE_LOG)


def test_a_replica_is_counted_when_it_runs():
    chem = one(cluster_of(expert(UP, WAITING, replica("s", state="STOPPING"), wanted=3)), "chem")
    assert (chem.num_ready, chem.num_wanted, len(chem.replicas)) == (1, 3, 3)
    assert chem.replicas[0].node_ip == "10.0.0.1"


def test_models_are_sorted_router_meta_experts():
    apps = [application(name, deployment(UP)) for name in ("a-stranger", "meta", "expert-law", "expert-chem")]
    found = collect(cluster_of(*apps)).models
    assert [model.name for model in found] == ["router", "meta", "chem", "law", "a-stranger"]
    assert [model.app for model in found[2:]] == ["expert-chem", "expert-law", "a-stranger"]


@pytest.mark.parametrize(
    ("app", "error", "remedy"),
    [
        (
            expert(app_status="DEPLOY_FAILED", status="DEPLOY_FAILED", message=TRACEBACK),
            "experts.errors.ModelLoadError: models/roman: no weights; copy them there",
            FAILED_APP_REMEDY,
        ),
        (
            expert(
                app_status="DEPLOYING",
                status="UPDATING",
                message="A replica failed to start with exception. Retrying. Error:\nOSError: disk",
            ),
            "OSError: disk",
            FAILED_APP_REMEDY,
        ),
        (
            application(
                "expert-chem", status="DEPLOY_FAILED", message="Deploying failed:\nImportError: no module"
            ),
            "ImportError: no module",
            FAILED_APP_REMEDY,
        ),
        (
            expert(
                UP, app_status="UNHEALTHY", status="UNHEALTHY", message="A replica's health check failed."
            ),
            "A replica's health check failed.",
            SEE_LOG,
        ),
        (expert(UP, status="UPSCALING", message="Upscaling from 1 to 3 replicas."), "", ""),
        (expert(UP, app_status="DEPLOYING", status="UPDATING", message=SLOW), "", ""),
    ],
)
def test_the_last_error_is_the_line_that_names_it(app: ApplicationDetails, error: str, remedy: str):
    chem = one(cluster_of(app), "chem")
    assert (chem.error, chem.remedy) == (error, remedy)


DIED = "The actor is dead because its worker process has died. Worker exit detail: "
CRASH = {"reason": "WORKER_DIED", "error_message": f"{DIED}End of file. Some common causes include: (1) …"}
OOM = {
    "error_message": "Task was killed due to the node running low on memory.\nMemory on the node was 31 GB"
}
TOLD_TO = {"reason": "RAY_KILL", "error_message": "The actor is dead because it was killed by `ray.kill`."}


@pytest.mark.parametrize(
    ("causes", "error"),
    [
        ([{"actor_died_error_context": CRASH}], "its process 7 on 10.0.0.1 died: End of file"),
        (
            [{"oom_context": OOM}],
            "its process 7 on 10.0.0.1 died: Task was killed due to the node running low on memory",
        ),
        (
            [{"actor_died_error_context": CRASH}, {"actor_died_error_context": TOLD_TO}, None],
            "its process 7 on 10.0.0.1 died: End of file",
        ),
        ([{"actor_died_error_context": TOLD_TO}], "A replica's health check failed."),
        ([], "A replica's health check failed."),
    ],
)
def test_ray_knows_how_a_replica_died(causes: list[dict[str, Any] | None], error: str):
    dead = [replica(f"d{i}", state="STOPPED") for i in range(len(causes))]
    actors = [
        {"actor_id": f"actor-d{i}", "state": "DEAD", "death_cause": cause} for i, cause in enumerate(causes)
    ]
    sick = expert(
        replica(state="STARTING"),
        app_status="UNHEALTHY",
        status="UNHEALTHY",
        message="A replica's health check failed.",
        dead=dead,
    )
    chem = one(cluster_of(sick, actors=actors), "chem")
    assert (chem.state, chem.error, chem.remedy) == ("starting", error, SEE_LOG)


def test_progress_is_a_message_and_not_an_error():
    fake = cluster_of(expert(UP, status="UPSCALING", message="Upscaling from 1 to 3 replicas."))
    chem = next(
        app for app in app_statuses(ServeDetails.model_validate(fake.details())) if app.name == "expert-chem"
    )
    assert (chem.message, chem.error) == ("Upscaling from 1 to 3 replicas.", "")


def test_what_a_model_waits_for_is_known_before_serve_has_built_it():
    labels = {"ray_actor_options": {"label_selector": {"zone": "eu"}}}
    chem = one(cluster_of(application("expert-chem", status="DEPLOYING", config=labels)), "chem")
    assert (chem.state, chem.waits_for) == ("unscheduled", "no node has the label zone=eu")
    assert chem.remedy == MAKE_ROOM


def test_nodes_are_read_only_while_a_replica_waits():
    fake = cluster_of(expert(UP), application("meta", deployment(UP)))
    collect(fake)
    assert fake.asked == []
    waiting = cluster_of(expert(UP, WAITING, wanted=2, needs={"CPU": 9.0}))
    chem = one(waiting, "chem")
    assert set(waiting.asked) == {"nodes", "actors", "placement_groups"}
    assert (chem.state, chem.waits_for) == ("ready", "no node offers CPU 9 (most: 4)")


def test_without_a_router_the_table_shows_what_serve_knows():
    fake = cluster_of(expert(UP), has_router=False)
    found = collect(fake)
    assert [(model.name, model.state, model.num_running) for model in found.models] == [
        ("router", "ready", None),
        ("chem", "ready", None),
    ]
    (note,) = found.notes
    assert note.startswith(f"the router at 127.0.0.1:{fake.port} answers 404 to /healthz; ")
    with dashboard(fake) as client:
        (note,) = StatusCollector(client, "http://127.0.0.1:9").collect().notes
    assert note.startswith("no router answers at http://127.0.0.1:9 (")


def test_a_replica_that_the_router_avoids_is_named_with_the_reason():
    why = "too many of its calls fail"
    fake = cluster_of(expert(UP), ejected={"chem": {"up": why}})
    assert one(fake, "chem").ejected == {"up": why}
    with StringIO() as screen:
        Console(file=screen, width=200).print(cluster_status(collect(fake)))
        shown = screen.getvalue()
    where = f"replica up on {one(fake, 'chem').replicas[0].node_ip}"
    assert f"chem: the router avoids {where} until it answers again: {why}" in shown


def test_a_pool_and_each_of_its_experts_have_a_line():
    def load(name: str, version: str | None, error: str, num_running: int, num_tokens: int) -> dict[str, Any]:
        counts = {"num_running": num_running, "num_tokens": num_tokens}
        adapter = {"wanted": "2", "version": version, "error": error, **counts}
        one = {"replica": "up", "time_s": num_tokens / 10, "num_waiting": 0, "cache_use": 0.5, **counts}
        return {**counts, "num_queued": 1, "replicas": [{**one, "adapters": {name: adapter}}]}

    def looks(num_tokens: int) -> dict[str, Any]:
        broken = load("greek", None, "adapter is cut off", 0, 0)
        broken["replicas"][0]["time_s"] = num_tokens / 10
        return {"law": load("law", "2", "", 3, num_tokens), "greek": broken, "meta": None}

    pool = application("pool-base", deployment(UP, replica("other", node=None, state="STARTING"), wanted=2))
    fake = cluster_of(
        application("meta", deployment(UP)),
        pool,
        expert(UP),
        adapters={"law": "base", "greek": "base"},
        stats=[looks(100), looks(200)],
        ejected={"law": {"up": "it cannot be reached"}, "greek": {"up": "it cannot be reached"}},
        health={
            "status": "ok",
            "table_version": 3,
            "experts": {"law": "ready", "greek": "failed", "chem": "ready"},
        },
    )
    with dashboard(fake) as client:
        collector = StatusCollector(client)
        collector.collect()
        found = {model.name: model for model in collector.collect().models}
    assert list(found) == ["router", "meta", "chem", "base", "greek", "law"]
    base, law, greek = found["base"], found["law"], found["greek"]
    assert (base.state, base.num_ready, base.num_wanted, base.num_running) == ("ready", 1, 2, 3)
    assert (base.ejected, law.ejected, greek.ejected) == ({"up": "it cannot be reached"}, {}, {})
    assert (base.tokens_per_s, law.tokens_per_s) == (10.0, 10.0)
    assert (law.pool, law.state, law.num_ready, law.error) == ("base", "ready", 1, "")
    assert (greek.state, greek.num_ready, greek.error, greek.remedy) == (
        "failed",
        0,
        "adapter is cut off",
        FAILED_APP_REMEDY,
    )
    assert (len(base.replicas), len(law.replicas)) == (2, 0)
