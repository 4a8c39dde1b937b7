"""Three worker nodes with different resources: placement of models, a lost node, a burst of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.hot_change.answers import Question, Verdict, ask, judge
from benchmarks.hot_change.clients import Clients
from benchmarks.models import save_random_model
from cluster.config.cluster_config import load_config
from cluster.config.config_editor import set_value
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to
from tests.support.raylets import Offer, Raylets, node_ids, pids, raylets
from tests.tiny.taught_cluster import ANSWERS, answered, learn_tokens, taught_models, write_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG_TOKENS = 400  # takes seconds
PLACES: dict[str, dict[str, Any]] = {
    "meta": {"custom": {"front": 0.1}},
    "router": {"custom": {"front": 0.1}},
    "chemistry": {"custom": {"bench": 1}},
    "roman": {"num_gpus": 0.25},
    "morse": {"labels": {"shelf": "top"}},
}
BURST = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 3600,
    "look_back_period_s": 10.1,
}
ASLEEP = {
    "min_replicas": 0,
    "max_replicas": 1,
    "downscale_delay_s": 0,
    "downscale_to_zero_delay_s": 0,
    "look_back_period_s": 10.1,
}


@dataclass(frozen=True)
class World:
    url: str
    config_path: Path
    nodes: Raylets
    client: ServeClient

    def ids(self, app: str) -> set[str]:
        return node_ids(self.client.details(), app)

    def state(self, expert: str) -> str:
        """The state that the router reports."""
        health = httpx.get(f"{self.url}/healthz", trust_env=False).raise_for_status()
        return str(health.json()["experts"][expert])

    def pids(self) -> dict[str, set[int]]:
        details = self.client.details()
        return {app: pids(details, app) for app in details.applications}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("raylets")
    path = _write_config(folder / "world", tmp_path_factory)
    with raylets(folder) as nodes:
        nodes.add(
            front=Offer(resources={"front": 1}),
            lab=Offer(resources={"bench": 1}),
            study=Offer(num_gpus=1, labels={"shelf": "top"}),
        )
        with connect_to(nodes.head) as client:
            yield World(apply(load_config(path), client, poll_s=0.25), path, nodes, client)


def _write_config(folder: Path, factory: pytest.TempPathFactory) -> Path:
    """The taught meta and experts, but the expert for Roman numerals writes without end."""
    path = write_cluster(folder, taught_models(factory))
    learn_tokens(path, folder / "data.jsonl", answered())
    save_random_model(folder / "models" / "roman", hidden_size=64, num_layers=2, max_model_len=2048)
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    text["router"] = {}
    blocks: dict[str, dict[str, Any]] = {"meta": text["meta"], "router": text["router"], **text["experts"]}
    for name, block in blocks.items():
        block["resources"] = {"num_cpus": 0.1, **PLACES[name]}
        if name != "router":
            block["engine"] = {"dtype": "float32", "max_streams": 8, "num_threads": 1}
    text["experts"]["roman"]["autoscaling"] = BURST
    text["experts"]["morse"]["autoscaling"] = ASLEEP
    text["http"] = {"host": "127.0.0.1", "port": free_ports(1)[0]}
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=world.url, timeout=120, trust_env=False) as client:
        yield client


async def answer(http: httpx.AsyncClient, text: str) -> str:
    """The streamed answer of the whole cluster."""
    reply = await ask(http, Question.routed(text, None, "generalist"))
    assert reply.error is None, reply.error
    return reply.text


async def answer_of(http: httpx.AsyncClient, text: str, expert: str) -> str:
    """The whole answer, for which no other expert may be called: one that is asleep would wake up."""
    messages, routing = [{"role": "user", "content": text}], {"experts": [expert]}
    body = {"messages": messages, "routing": routing, "temperature": 0, "max_tokens": 64}
    response = await http.post("/v1/chat/completions", json=body)
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


@asynccontextmanager
async def writing(http: httpx.AsyncClient, num_streams: int) -> AsyncIterator[Clients]:
    """Long streams of the expert for Roman numerals, called by the meta, one after another until the block
    ends. Each answer must be the same as before the block."""
    long = Question.routed("five 7?", "roman", "generalist", max_tokens=LONG_TOKENS)
    quiet = await ask(http, long)
    assert quiet.error is None, quiet.error
    assert quiet.writers == ("meta", "roman")
    clients = Clients(http, [[long]] * num_streams)
    async with clients.asking():
        yield clients
    assert clients.answers
    assert [a for a in clients.answers if judge(a, {quiet.text}) is not Verdict.WHOLE] == []


async def eventually(condition: Callable[[], bool], timeout_s: float = 240) -> None:
    assert await asyncio.to_thread(until, condition, timeout_s, 0.25)


def test_every_model_runs_on_the_node_that_its_config_asks_for(world: World):
    front, lab, study = (world.nodes.nodes[name].id for name in ("front", "lab", "study"))
    apps = {"meta": front, "router": front, "expert-chemistry": lab, "expert-roman": study}
    assert {app: world.ids(app) for app in apps} == {app: {node} for app, node in apps.items()}
    assert world.ids("expert-morse") == set()


async def test_a_burst_on_one_expert_scales_only_that_expert(world: World, http: httpx.AsyncClient):
    before = world.pids()
    async with writing(http, 3):
        await eventually(lambda: len(world.pids()["expert-roman"]) == 2)
    after = world.pids()
    assert before.pop("expert-roman") < after.pop("expert-roman")
    assert after == before


async def test_models_of_a_lost_node_restart_elsewhere_while_other_nodes_answer(
    world: World, http: httpx.AsyncClient
):
    before = world.pids()
    await asyncio.to_thread(lambda: world.nodes.add(annex=Offer(resources={"bench": 1})))
    assert await answer(http, "iron 7?") == ANSWERS["chemistry"]
    async with writing(http, 1) as long:
        num_before = len(long.answers)
        await asyncio.to_thread(world.nodes.kill, "lab")
        annex = world.nodes.nodes["annex"].id
        await eventually(lambda: world.ids("expert-chemistry") == {annex})
        await eventually(lambda: len(long.answers) > num_before + 2)
    async with asyncio.timeout(240):  # until the expert is back, the meta answers
        while await answer_of(http, "iron 7?", "chemistry") != ANSWERS["chemistry"]:
            pass
    after = world.pids()
    assert not before.pop("expert-chemistry") & after.pop("expert-chemistry")
    assert after == before


async def test_a_sleeping_expert_wakes_on_its_node_while_another_expert_answers(
    world: World, http: httpx.AsyncClient
):
    async with writing(http, 1):
        before = world.pids()
        answers = await asyncio.gather(*(answer(http, f"dash {i}?") for i in range(8)))
    assert answers == [ANSWERS["morse"]] * 8
    assert world.ids("expert-morse") == {world.nodes.nodes["study"].id}
    after = world.pids()
    assert len(after.pop("expert-morse")) == 1
    assert after == {app: found for app, found in before.items() if app != "expert-morse"}


async def test_an_idle_expert_falls_asleep_and_the_meta_answers_while_it_wakes(
    world: World, http: httpx.AsyncClient
):
    before = world.pids()
    set_value(world.config_path, ("experts", "morse", "cold_start"), "meta")
    await asyncio.to_thread(lambda: apply(load_config(world.config_path), world.client, poll_s=0.25))
    await eventually(lambda: world.state("morse") == "asleep")
    assert not world.pids()["expert-morse"]
    async with writing(http, 1):
        answers = await asyncio.gather(*(answer(http, f"dash {i}?") for i in range(8)))
        assert (
            answers == ["morse"] * 8
        )  # the meta was trained to say the name of an expert that it cannot call
        await eventually(lambda: world.state("morse") == "ready")
    assert await answer(http, "beep 9?") == ANSWERS["morse"]
    after = world.pids()
    assert len(after.pop("expert-morse")) == 1
    assert after == {app: found for app, found in before.items() if app != "expert-morse"}
