"""`etr status` on a real cluster: idle, under load, and with a resource that no node has."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from cluster.polling import until
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to
from cluster.serve.serve_details import HttpOptions
from cluster.status.collector import MIN_PERIOD_S, StatusCollector
from cluster.status.model_status import ClusterStatus, ModelStatus
from cluster.status.nodes import cluster_nodes
from cluster.status.router_view import fetch_router_view

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NUM_STREAMS = 40  # more than one replica takes at once, so that some wait
WANTED = {"num_cpus": 0.1, "resources": {"model_math": 1}}


@pytest.fixture
def client(served) -> Iterator[ServeClient]:
    with connect_to(served.head) as client:
        yield client


def named(status: ClusterStatus) -> dict[str, ModelStatus]:
    return {model.name: model for model in status.models}


def test_an_idle_cluster_is_ready(served, client: ServeClient):
    collector = StatusCollector(client)
    assert until(lambda: _is_idle(named(collector.collect())), 30.0, MIN_PERIOD_S)
    status = collector.collect()
    assert (status.url, status.notes) == (served.url, ())
    assert [model.name for model in status.models] == ["router", "meta", *sorted(served.config.experts)]
    for model in status.models:
        assert (model.state, model.num_ready, model.num_wanted, model.error) == ("ready", 1, 1, "")
        assert model.replicas[0].node_ip


async def test_load_is_reported_while_it_lasts(served, client: ServeClient):
    collector = StatusCollector(client)
    async with httpx.AsyncClient(base_url=served.url, timeout=120) as http, asyncio.TaskGroup() as group:
        writing = [group.create_task(_write_on(http, "generalist/meta")) for _ in range(NUM_STREAMS)]
        busy = await asyncio.to_thread(until, partial(_queues, collector), 60.0, MIN_PERIOD_S)
        for task in writing:
            task.cancel()
    assert busy, "the status never had waiting calls and a token rate at the same time"


async def test_concurrent_status_requests_get_the_same_statistics(served):
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        answers = await asyncio.gather(*(http.get("/stats") for _ in range(16)))
    clocks = {
        answer.raise_for_status().json()["models"]["meta"]["replicas"][0]["time_s"] for answer in answers
    }
    assert len(clocks) <= 2  # two if a refresh came between them


def test_a_missing_resource_is_named_and_other_models_keep_serving(served, client: ServeClient):
    before = {node.id: node for node in cluster_nodes(client)}
    (node,) = before.values()
    reserved = served.config.meta.resources.num_cpus * (len(served.config.experts) + 1)
    reserved += served.config.router.resources.num_cpus
    assert node.total["CPU"] - node.free["CPU"] == pytest.approx(reserved)
    with _one_more(client, "homeless", WANTED):
        collector = StatusCollector(client)
        assert until(lambda: named(collector.collect())["homeless"].state == "unscheduled", 60.0, 0.5)
        models = named(collector.collect())
    assert models["homeless"].waits_for == "needs custom resource model_math 1: no node has it"
    assert models["meta"].state == "ready"
    assert fetch_router_view(served.url).states["meta"] == "ready"


@contextmanager
def _one_more(client: ServeClient, name: str, options: dict[str, Any]) -> Iterator[None]:
    """Deploys a copy of an expert with other resources while the block runs."""
    details = client.details()
    apps = list(details.deployed.values())
    http = (details.http_options or HttpOptions()).model_dump()
    config = {"proxy_location": details.proxy_location, "http_options": http}
    more = copy.deepcopy(next(app for app in apps if app["name"].startswith("expert-"))) | {"name": name}
    more["deployments"][0]["ray_actor_options"] = options
    try:
        client.put({**config, "applications": [*apps, more]})
        yield
    finally:
        client.put({**config, "applications": apps})
        assert until(lambda: name not in client.details().applications, 60.0, 0.5)


async def _write_on(http: httpx.AsyncClient, model: str) -> None:
    asked = {"model": model, "prompt": "a", "max_tokens": 400, "temperature": 1.0}
    while True:
        (await http.post("/v1/completions", json=asked)).raise_for_status()


def _queues(collector: StatusCollector) -> bool:
    meta = named(collector.collect())["meta"]
    return bool(meta.num_running and meta.num_queued and meta.tokens_per_s)


def _is_idle(models: dict[str, ModelStatus]) -> bool:
    return all(not model.num_running and not model.num_queued for model in models.values())
