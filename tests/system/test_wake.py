"""Scale to zero and back on a real cluster, with two experts that sleep until called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to, num_logical_cpus
from experts.token import ExpertToken, checkpoint_fingerprint
from tests.tiny.models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NUM_CALLERS = 8
ASLEEP = {"min_replicas": 0, "max_replicas": 4, "target_ongoing_requests": 1, "upscale_delay_s": 3600}


@dataclass(frozen=True)
class Sleepers:
    """Callers wait for the expert `waiting`. The meta answers while the expert `bypassed` starts."""

    url: str
    client: ServeClient

    def state(self, expert: str) -> str:
        health = httpx.get(f"{self.url}/healthz", trust_env=False).raise_for_status()
        return str(health.json()["experts"][expert])

    def num_replicas(self, expert: str) -> int:
        app = self.client.details().applications[f"expert-{expert}"]
        return len(app.deployments["Model"].replicas)


@pytest.fixture(scope="module")
def sleepers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sleepers]:
    folder = tmp_path_factory.mktemp("sleepers")
    config = load_config(_write_config(folder))
    head = start_head(folder / "state", num_cpus=num_logical_cpus(config) + 8)
    try:
        with connect_to(head) as client:
            yield Sleepers(apply(config, client, poll_s=0.2), client)
    finally:
        stop_head(folder / "state")


async def test_callers_wait_until_the_expert_has_started_once(sleepers: Sleepers):
    assert (sleepers.state("waiting"), sleepers.num_replicas("waiting")) == ("asleep", 0)
    answers = await _ask(sleepers, "waiting")
    for lines in answers:
        assert ": heartbeat" in lines
        assert _writers(lines) == {"waiting"}
        assert lines[-1] == "data: [DONE]"
    assert (sleepers.state("waiting"), sleepers.num_replicas("waiting")) == ("ready", 1)


async def test_the_meta_answers_while_the_expert_starts_once(sleepers: Sleepers):
    assert (sleepers.state("bypassed"), sleepers.num_replicas("bypassed")) == ("asleep", 0)
    answers = await _ask(sleepers, "bypassed")
    assert [_writers(lines) for lines in answers] == [{"meta"}] * NUM_CALLERS
    assert await asyncio.to_thread(until, lambda: sleepers.state("bypassed") == "ready", 60.0, 0.1)
    assert sleepers.num_replicas("bypassed") == 1
    assert [_writers(lines) for lines in await _ask(sleepers, "bypassed")] == [{"bypassed"}] * NUM_CALLERS


async def _ask(sleepers: Sleepers, expert: str) -> list[list[str]]:
    """The lines of each stream, for concurrent requests that the meta hands over to this expert."""
    body = {
        "messages": [{"role": "user", "content": "hello"}],
        "routing": {"bias": {expert: 100.0}, "experts": [expert], "trace": True},
        "temperature": 0,
        "max_tokens": 8,
        "stream": True,
    }
    async with httpx.AsyncClient(base_url=sleepers.url, timeout=120, trust_env=False) as client:
        calls = [client.post("/v1/chat/completions", json=body) for _ in range(NUM_CALLERS)]
        responses = await asyncio.gather(*calls)
    return [[line for line in response.text.splitlines() if line] for response in responses]


def _writers(lines: list[str]) -> set[str]:
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return {chunk["routing"]["model"] for chunk in chunks if "model" in chunk.get("routing", {})}


def _write_config(folder: Path) -> Path:
    tokenizer = byte_level()
    for seed, name in enumerate(("meta", "waiting", "bypassed")):
        save_tiny_llama(folder / "models" / name, tokenizer, seed=seed)
    fingerprint = checkpoint_fingerprint(folder / "models" / "meta")
    assert fingerprint is not None
    experts: dict[str, Any] = {}
    for name, cold_start in (("waiting", "wait"), ("bypassed", "meta")):
        vector = torch.full((HIDDEN_SIZE,), 0.01 * (1 + len(experts)))
        token = ExpertToken(name, vector, 0.0, meta_name="meta", meta_fingerprint=fingerprint[0])
        token.save(folder / f"{name}.safetensors")
        experts[name] = {
            "model": {"path": f"models/{name}"},
            "token": f"{name}.safetensors",
            "autoscaling": ASLEEP,
            "cold_start": cold_start,
        }
    config = {
        "meta": {"model": {"path": "models/meta"}},
        "experts": experts,
        "routing": {"heartbeat_s": 0.2, "deadlines": {"first_token_s": 20}},
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
