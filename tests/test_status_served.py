"""`etr status` on the demo cluster, for real: what load looks like, and what nobody has."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from cluster.cluster_nodes import cluster_nodes
from cluster.epoch import deployed
from cluster.model_status import ClusterStatus, ModelStatus
from cluster.router_view import look
from cluster.serve_client import ServeClient
from cluster.session import until
from cluster.target import connect_to
from cluster.watch import LOOK_GAP_S, Watch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

NUM_STREAMS = 40  # more than one replica takes, so that some wait
WANTED = {"num_cpus": 0.1, "resources": {"model_math": 1}}


@pytest.fixture
def client(served) -> Iterator[ServeClient]:
    with connect_to(served.head) as client:
        yield client


def named(status: ClusterStatus) -> dict[str, ModelStatus]:
    return {model.name: model for model in status.models}


def test_an_idle_cluster_is_ready(served, client: ServeClient):
    watch = Watch(client)
    assert until(lambda: _is_idle(named(watch.look())), 30.0, LOOK_GAP_S)
    status = watch.look()
    assert (status.url, status.notes) == (served.url, ())
    assert [model.name for model in status.models] == ["router", "meta", *sorted(served.config.experts)]
    for model in status.models:
        assert (model.state, model.num_ready, model.num_wanted, model.error) == ("ready", 1, 1, "")
        assert model.replicas[0].node_ip


async def test_load_is_seen_while_it_lasts(served, client: ServeClient):
    watch = Watch(client)
    async with httpx.AsyncClient(base_url=served.url, timeout=120) as http, asyncio.TaskGroup() as group:
        writing = [group.create_task(_write_on(http, "generalist/meta")) for _ in range(NUM_STREAMS)]
        busy = await asyncio.to_thread(until, partial(_queues, watch), 60.0, LOOK_GAP_S)
        for task in writing:
            task.cancel()
    assert busy, "no look has seen calls that wait beside a rate of tokens"


async def test_many_who_look_get_the_same_answer(served):
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        answers = await asyncio.gather(*(http.get("/stats") for _ in range(16)))
    clocks = {
        answer.raise_for_status().json()["models"]["meta"]["replicas"][0]["time_s"] for answer in answers
    }
    assert len(clocks) <= 2  # two, where a second began on the way


def test_what_a_model_waits_for_is_named_and_the_others_serve_on(served, client: ServeClient):
    before = {node.id: node for node in cluster_nodes(client)}
    (node,) = before.values()
    reserved = served.config.meta.resources.num_cpus * (len(served.config.experts) + 1)
    reserved += served.config.router.resources.num_cpus
    assert node.total["CPU"] - node.free["CPU"] == pytest.approx(reserved)
    with _one_more(client, "homeless", WANTED):
        watch = Watch(client)
        assert until(lambda: named(watch.look())["homeless"].state == "unscheduled", 60.0, 0.5)
        models = named(watch.look())
    assert models["homeless"].waits_for == "needs custom resource model_math 1: no node has it"
    assert models["meta"].state == "ready"
    assert look(served.url).states["meta"] == "ready"


@contextmanager
def _one_more(client: ServeClient, name: str, options: dict[str, Any]) -> Iterator[None]:
    """A copy of an expert that asks for other resources, beside what runs; for a while."""
    details = client.details()
    apps = list(deployed(details).values())
    config = {"proxy_location": details["proxy_location"], "http_options": _http(details)}
    more = copy.deepcopy(next(app for app in apps if app["name"].startswith("expert-"))) | {"name": name}
    more["deployments"][0]["ray_actor_options"] = options
    try:
        client.put({**config, "applications": [*apps, more]})
        yield
    finally:
        client.put({**config, "applications": apps})
        assert until(lambda: name not in client.details()["applications"], 60.0, 0.5)


def _http(details: dict[str, Any]) -> dict[str, Any]:
    return {key: details["http_options"][key] for key in ("host", "port")}


async def _write_on(http: httpx.AsyncClient, model: str) -> None:
    asked = {"model": model, "prompt": "a", "max_tokens": 400, "temperature": 1.0}
    while True:
        (await http.post("/v1/completions", json=asked)).raise_for_status()


def _queues(watch: Watch) -> bool:
    meta = named(watch.look())["meta"]
    return bool(meta.num_running and meta.num_queued and meta.tokens_per_s)


def _is_idle(models: dict[str, ModelStatus]) -> bool:
    return all(not model.num_running and not model.num_queued for model in models.values())
