"""Scaled to zero and back, for real: Ray, Serve, a router, and two experts that sleep until called."""

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

from cluster.apply import apply
from cluster.config import load_config
from cluster.local import start_head, stop_head
from cluster.ports import free_ports
from cluster.serve_client import ServeClient
from cluster.session import until
from cluster.target import connect_to, num_logical_cpus
from experts.token import ExpertToken, checkpoint_fingerprint
from tests.tiny_models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny_tokenizers import byte_level

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NUM_CALLERS = 8
ASLEEP = {"min_replicas": 0, "max_replicas": 4, "target_ongoing_requests": 1, "upscale_delay_s": 3600}


@dataclass(frozen=True)
class Sleepers:
    """`held` is waited for; for `replaced` the meta answers meanwhile."""

    url: str
    client: ServeClient

    def state(self, expert: str) -> str:
        health = httpx.get(f"{self.url}/healthz", trust_env=False).raise_for_status()
        return str(health.json()["experts"][expert])

    def num_replicas(self, expert: str) -> int:
        app = self.client.details()["applications"][f"expert-{expert}"]
        return len(app["deployments"]["Model"]["replicas"])


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


async def test_callers_are_held_until_the_one_start_is_done(sleepers: Sleepers):
    assert (sleepers.state("held"), sleepers.num_replicas("held")) == ("asleep", 0)
    answers = await _ask(sleepers, "held")
    for lines in answers:
        assert ": heartbeat" in lines
        assert _writers(lines) == {"held"}
        assert lines[-1] == "data: [DONE]"
    assert (sleepers.state("held"), sleepers.num_replicas("held")) == ("ready", 1)


async def test_the_meta_answers_while_the_one_start_is_under_way(sleepers: Sleepers):
    assert (sleepers.state("replaced"), sleepers.num_replicas("replaced")) == ("asleep", 0)
    answers = await _ask(sleepers, "replaced")
    assert [_writers(lines) for lines in answers] == [{"meta"}] * NUM_CALLERS
    assert await asyncio.to_thread(until, lambda: sleepers.state("replaced") == "ready", 60.0, 0.1)
    assert sleepers.num_replicas("replaced") == 1
    assert [_writers(lines) for lines in await _ask(sleepers, "replaced")] == [{"replaced"}] * NUM_CALLERS


async def _ask(sleepers: Sleepers, expert: str) -> list[list[str]]:
    """What all callers at once are sent, line by line, when the meta would hand over to that expert."""
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
    for seed, name in enumerate(("meta", "held", "replaced")):
        save_tiny_llama(folder / "models" / name, tokenizer, seed=seed)
    found = checkpoint_fingerprint(folder / "models" / "meta")
    assert found is not None
    experts: dict[str, Any] = {}
    for name, cold_start in (("held", "wait"), ("replaced", "meta")):
        vector = torch.full((HIDDEN_SIZE,), 0.01 * (1 + len(experts)))
        token = ExpertToken(name, vector, 0.0, meta_name="meta", meta_fingerprint=found[0])
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
