"""Experts in the meta on a real cluster: they take over, come while it serves, and survive a replica."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from cluster.client.in_place_check import check_in_place
from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.serve.app_status import status
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to
from cluster.status.collector import StatusCollector
from experts.learn.queries import Query
from tests.support.engine_world import prompt_ids, question, token
from tests.support.reference_loop import ReferenceModel
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

INVOCATION = "<|im_start|>assistant\n"
ENGINE = {"dtype": "float32", "num_threads": 1, "max_adapters": 2, "max_streams": 16}
NUM_TOKENS = 150
QUESTIONS = [f"question {number}" for number in range(12)]


@dataclass
class World:
    """A cluster whose experts are all in the meta. `models`: PEFT's, by expert."""

    folder: Path
    client: ServeClient
    port: int
    reference: ReferenceModel
    models: dict[str, Any]
    url: str = ""

    def serve(self, *experts: str) -> None:
        blocks = {
            name: {"adapter": {"path": f"adapters/{name}", "pool": "meta"}, "token": f"{name}.safetensors"}
            for name in experts
        }
        scaling = {"min_replicas": 2, "max_replicas": 2}
        meta = {"model": {"path": "models/meta"}, "engine": ENGINE, "autoscaling": scaling}
        config = {"meta": meta, "experts": blocks, "http": {"port": self.port}}
        path = self.folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.url = apply(load_config(path), self.client)

    def pids(self, app: str) -> list[int]:
        apps = {each.name: each for each in status(self.client)}
        return [replica.pid for replica in apps[app].replicas if replica.pid is not None]

    @torch.no_grad()
    def expected(self, expert: str, text: str) -> str:
        ids, model = prompt_ids(self.reference, text), self.models[expert]
        output = model.generate(
            input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=-1
        )
        found = [int(each) for each in output[0, len(ids) :]]
        stop = next((i for i, each in enumerate(found) if each in self.reference.stop_ids), None)
        return self.reference.text(found[:stop])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from tests.tiny.peft_adapters import save_peft_adapter  # the environment of vLLM lacks PEFT

    folder = tmp_path_factory.mktemp("in_place")
    save_tiny_llama(folder / "models" / "meta", byte_level())
    reference = ReferenceModel(folder / "models" / "meta")
    invocation = reference.tokenizer(INVOCATION, add_special_tokens=False)["input_ids"]
    models = {
        name: save_peft_adapter(
            folder / "models" / "meta",
            folder / "adapters" / name,
            seed=seed,
            alora_invocation_tokens=invocation,
        )
        for seed, name in enumerate(("law", "chem"))
    }
    for number, (name, bias) in enumerate((("law", 1000.0), ("chem", -1000.0))):  # the first takes over
        vector = torch.full((reference.head.shape[1],), 1e-3 * number)
        token(reference, name, vector, bias).save(folder / f"{name}.safetensors")
    [port] = free_ports(1)
    head = start_head(folder / "state", num_cpus=8)
    try:
        with connect_to(head) as client:
            yield World(folder, client, port, reference, models)
    finally:
        stop_head(folder / "state")


def test_experts_in_the_meta_take_over_come_and_survive_a_replica(world: World):
    world.serve("law")
    pids = world.pids("meta")
    assert len(pids) == 2
    _the_expert_takes_over(world)

    world.serve("law", "chem")
    assert world.pids("meta") == pids
    for name in ("law", "chem"):
        [choice] = _ask(world.url, f"generalist/{name}", "hello")["choices"]
        assert choice["message"]["content"] == world.expected(name, "hello")
    queries = [Query(question(text), "law") for text in QUESTIONS[:2]]
    check = asyncio.run(check_in_place(world.url, "generalist", "law", queries))
    assert check.equal_parts == (1.0, 1.0)

    models = {model.name: model for model in StatusCollector(world.client, world.url).collect().models}
    assert (models["law"].pool, models["chem"].pool, models["meta"].pool) == ("meta", "meta", "")

    texts = asyncio.run(_answers_while_a_replica_dies(world.url, pids[0]))
    assert texts == [world.expected("law", text) for text in QUESTIONS]


def _the_expert_takes_over(world: World) -> None:
    answer = _ask(world.url, "generalist", "hello")
    [choice] = answer["choices"]
    routing = choice["routing"]
    assert [span["model"] for span in routing["spans"]] == ["law"]
    assert [call["model"] for call in routing["timing"]["calls"]] == ["meta", "law"]
    assert choice["message"]["content"] == world.expected("law", "hello")


async def _answers_while_a_replica_dies(url: str, pid: int) -> list[str]:
    """Each stream has begun when the replica dies."""
    begun = [asyncio.Event() for _ in QUESTIONS]
    async with httpx.AsyncClient(timeout=120.0, trust_env=False) as client, asyncio.TaskGroup() as tasks:
        answers = [
            tasks.create_task(_stream(client, url, text, event))
            for text, event in zip(QUESTIONS, begun, strict=True)
        ]
        for event in begun:
            await event.wait()
        os.kill(pid, signal.SIGKILL)
    return [answer.result() for answer in answers]


async def _stream(client: httpx.AsyncClient, url: str, text: str, begun: asyncio.Event) -> str:
    found = ""
    async with client.stream("POST", f"{url}/v1/chat/completions", json=_body("generalist", text, True)) as r:
        async for line in r.aiter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                found += "".join(choice["delta"].get("content") or "" for choice in choices)
                begun.set()
    return found


def _ask(url: str, model: str, text: str) -> dict[str, Any]:
    body = _body(model, text, False)
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60.0, trust_env=False)
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def _body(model: str, text: str, streams: bool) -> dict[str, Any]:
    return {
        "model": model,
        "messages": list(question(text)),
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
        "stream": streams,
        "routing": {"trace": True},
    }
