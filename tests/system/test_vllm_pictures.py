"""Pictures on a real cluster: an expert in vLLM that sees, one that does not, and two metas in turn."""

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

from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.app_names import expert_app
from cluster.serve.app_status import status
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to
from experts.token import ExpertToken
from tests.support.engine_world import needs_vllm, question
from tests.support.reference_loop import ReferenceModel
from tests.tiny.models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny.seeing import SeeingReference, look, picture, save_seeing
from tests.tiny.tokenizers import byte_level

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), needs_vllm]

SMALL = {"dtype": "float32", "num_threads": 1}
VLLM = {"kind": "vllm", "dtype": "float32", "cache_bytes": 2**24, "enforce_eager": True, "max_streams": 8}
QUESTION = look("what is ", picture("red"), " beside ", picture("blue", (20, 50)))
NUM_TOKENS = 600  # of answers during which a replica dies: enough that none has ended by then
NUM_BY_META = 3


@dataclass
class World:
    """`eye` reads pictures and `blind` does not, though its token wins wherever it may."""

    folder: Path
    client: ServeClient
    port: int
    url: str = ""

    def serve(self, meta: str, engine: dict[str, Any]) -> None:
        config = {
            "meta": {"model": {"path": f"models/{meta}"}, "engine": engine},
            "experts": {
                "eye": {
                    "model": {"path": "models/eye"},
                    "engine": VLLM,
                    "modalities": ["text", "image"],
                    "autoscaling": {"min_replicas": 2, "max_replicas": 2},
                    "token": f"{meta}-eye.safetensors",
                },
                "blind": {
                    "model": {"path": "models/blind"},
                    "engine": SMALL,
                    "token": f"{meta}-blind.safetensors",
                },
            },
            "http": {"port": self.port},
        }
        path = self.folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.url = apply(load_config(path), self.client, poll_s=0.2)

    def pid_of_writer(self) -> int:
        """The process of the replica that writes the most answers now."""
        assert until(lambda: max(self._num_running().values(), default=0) > 0, 30.0)
        running = self._num_running()
        replicas = [r for app in status(self.client) if app.name == expert_app("eye") for r in app.replicas]
        [pid] = [r.pid for r in replicas if r.id == max(running, key=running.__getitem__)]
        assert pid is not None
        return pid

    def _num_running(self) -> dict[str, int]:
        stats = httpx.get(f"{self.url}/stats", timeout=60, trust_env=False).raise_for_status().json()
        return {load["replica"]: load["num_running"] for load in stats["models"]["eye"]["replicas"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("text", "blind")):
        save_tiny_llama(folder / "models" / name, byte_level(), seed=seed)
    for seed, name in enumerate(("seeing", "eye")):
        save_seeing(folder / "models" / name, seed=seed, max_model_len=2 * NUM_TOKENS)
    text = ReferenceModel(folder / "models" / "text")
    _save_tokens(folder, "text", text.fingerprint, torch.full((HIDDEN_SIZE,), 1e-3))
    seeing = SeeingReference(folder / "models" / "seeing")
    begun = seeing.write(QUESTION, NUM_BY_META)
    _save_tokens(folder, "seeing", seeing.fingerprint, seeing.wins_after(QUESTION, begun))
    [port] = free_ports(1)
    head = start_head(folder / "state", num_cpus=8)
    try:
        with connect_to(head) as client:
            yield World(folder, client, port)
    finally:
        stop_head(folder / "state")


@pytest.fixture(scope="module")
def eye(world: World) -> SeeingReference:
    return SeeingReference(world.folder / "models" / "eye")


def test_a_meta_that_reads_text_gives_pictures_to_the_expert_that_sees(world: World, eye: SeeingReference):
    world.serve("text", SMALL)
    choice = _ask(world.url, QUESTION, 12)
    assert _writers(choice) == ["eye"]
    assert choice["message"]["content"] == eye.text(eye.write(QUESTION, 12))
    assert _writers(_ask(world.url, question("hello"), 12)) == ["blind"]
    listed = httpx.get(f"{world.url}/v1/models", trust_env=False).json()["data"]
    read = {each["id"]: each["modalities"] for each in listed}
    assert read["generalist/eye"] == ["text", "image"]
    assert read["generalist/meta"] == read["generalist/blind"] == ["text"]
    for model in ("generalist/meta", "generalist/blind"):
        refused = httpx.post(
            f"{world.url}/v1/chat/completions", json=_body(model, QUESTION, 12), trust_env=False, timeout=60
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_modality")


def test_a_meta_that_sees_hands_over_and_the_expert_goes_on_after_its_replica_died(
    world: World, eye: SeeingReference
):
    world.serve("seeing", VLLM)
    meta = SeeingReference(world.folder / "models" / "seeing")
    begun = meta.text(meta.write(QUESTION, NUM_BY_META))
    choice = _ask(world.url, QUESTION, NUM_BY_META + 12)
    assert _writers(choice) == ["meta", "eye"]
    assert choice["message"]["content"] == begun + eye.text(eye.write(QUESTION, 12, begun))

    whole = _ask(world.url, QUESTION, NUM_TOKENS, ignore_eos=True)
    answers = asyncio.run(_answers_while_a_replica_dies(world, len(begun)))
    assert {text for text, _ in answers} == {whole["message"]["content"]}
    assert ["meta", "eye", "eye"] in [calls for _, calls in answers], "no answer was resumed"


async def _answers_while_a_replica_dies(world: World, num_by_meta: int) -> list[tuple[str, list[str]]]:
    """Each is longer than `num_by_meta` characters when the replica dies. With the model of each call."""
    begun = [asyncio.Event() for _ in range(6)]
    async with httpx.AsyncClient(timeout=120.0, trust_env=False) as client, asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(_stream(client, world.url, num_by_meta, event)) for event in begun]
        for event in begun:
            await event.wait()
        os.kill(await asyncio.to_thread(world.pid_of_writer), signal.SIGKILL)
    return [answer.result() for answer in answers]


async def _stream(
    client: httpx.AsyncClient, url: str, num_by_meta: int, begun: asyncio.Event
) -> tuple[str, list[str]]:
    text = ""
    calls: list[str] = []
    body = _body("generalist", QUESTION, NUM_TOKENS, stream=True, ignore_eos=True)
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            timing = chunk.get("routing", {}).get("timing", {})
            calls = [call["model"] for call in timing.get("calls", ())] or calls
            if len(text) > num_by_meta:
                begun.set()
    return text, calls


def _ask(url: str, messages: Any, max_tokens: int, **options: Any) -> dict[str, Any]:
    body = _body("generalist", messages, max_tokens, **options)
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def _body(model: str, messages: Any, max_tokens: int, **options: Any) -> dict[str, Any]:
    body = {"model": model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens, **options}
    return {**body, "routing": {"trace": True}} if model == "generalist" else body


def _writers(choice: dict[str, Any]) -> list[str]:
    return [span["model"] for span in choice["routing"]["spans"]]


def _save_tokens(folder: Path, meta: str, fingerprint: str, eye: torch.Tensor) -> None:
    blind = torch.full((HIDDEN_SIZE,), -1e-3)
    for name, vector, bias in (("eye", eye, 0.0), ("blind", blind, 1000.0)):
        ExpertToken(name, vector, bias, meta, fingerprint).save(folder / f"{meta}-{name}.safetensors")
