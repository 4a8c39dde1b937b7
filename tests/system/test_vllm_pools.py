"""A pool in vLLM on a real cluster: experts that are adapters are added, changed and removed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.config.cluster_config import load_config
from cluster.errors import DeployFailed
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.serve.app_status import status
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to
from cluster.status.collector import StatusCollector
from cluster.status.model_status import ModelState, ModelStatus
from experts.token import ExpertToken
from tests.support.engine_world import needs_vllm, question, token, wins_after
from tests.support.reference_loop import ReferenceModel, reference_answer
from tests.tiny.adapters import RANK, save_tiny_adapter
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    needs_vllm,
]

NUM_TOKENS = 16
VLLM = {"kind": "vllm", "dtype": "float32", "cache_bytes": 2**24, "enforce_eager": True, "max_streams": 8}
SEEDS = {"law": 1, "chem": 2, "roman": 3, "morse": 4}


@dataclass
class Pool:
    """A cluster whose experts are adapters in one pool. `expected`: each expert with its adapter merged."""

    folder: Path
    client: ServeClient
    port: int
    expected: dict[str, ReferenceModel]
    url: str = ""

    def serve(self, *experts: str) -> None:
        self.url = apply(load_config(self.write(*experts)), self.client)

    def write(self, *experts: str) -> Path:
        adapters = {
            name: {"adapter": {"path": f"adapters/{name}", "pool": "base"}, "token": f"{name}.safetensors"}
            for name in experts
        }
        engine = {**VLLM, "max_adapters": 3, "max_adapter_rank": RANK}
        config = {
            "meta": {
                "model": {"path": "models/meta"},
                "engine": {"dtype": "float32", "num_threads": 1},
            },
            "experts": adapters,
            "pools": {"base": {"model": {"path": "models/base"}, "engine": engine}},
            "http": {"port": self.port},
        }
        path = self.folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def pids(self) -> dict[str, list[int | None]]:
        return {app.name: [replica.pid for replica in app.replicas] for app in status(self.client)}

    def text(self, name: str) -> str:
        reference = self.expected[name]
        return reference.text(reference.write(question("hello"), "", NUM_TOKENS)[0])

    def status(self, name: str) -> ModelStatus:
        return next(
            model for model in StatusCollector(self.client, self.url).collect().models if model.name == name
        )


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("pool")
    for seed, name in enumerate(("meta", "base")):
        save_tiny_llama(folder / "models" / name, byte_level(), seed=seed, head_dim=32)
    meta = ReferenceModel(folder / "models" / "meta")
    expected = {
        name: save_tiny_adapter(folder / "models" / "base", folder / "adapters" / name, seed)
        for name, seed in SEEDS.items()
    }
    for number, name in enumerate(SEEDS):
        token(meta, name, wins_after(meta, "hello" if name == "law" else f"{number}", 3)).save(
            folder / f"{name}.safetensors"
        )
    [port] = free_ports(1)
    head = start_head(folder / "state", num_cpus=8)
    try:
        with connect_to(head) as client:
            yield Pool(folder, client, port, expected)
    finally:
        stop_head(folder / "state")


def test_experts_of_a_pool_are_added_changed_and_removed_without_a_restart(pool: Pool):
    pool.serve("law", "chem")
    pids = pool.pids()
    assert sorted(pids) == ["meta", "pool-base", "router"]
    assert pool.text("law") != pool.text("chem")
    _each_answers_with_its_own_adapter(pool, "law", "chem")
    _the_meta_hands_over(pool)

    pool.serve("law", "chem", "roman")
    _each_answers_with_its_own_adapter(pool, "law", "chem", "roman")

    pool.expected["chem"] = save_tiny_adapter(
        pool.folder / "models" / "base", pool.folder / "adapters" / "chem", 17
    )
    pool.serve("law", "chem", "roman")
    _each_answers_with_its_own_adapter(pool, "law", "chem", "roman")

    pool.serve("law", "roman", "morse")  # the maximum, so one has to be unloaded first
    _each_answers_with_its_own_adapter(pool, "law", "roman", "morse")
    assert _ask(pool.url, "generalist/chem").status_code == 404
    assert pool.pids() == pids
    assert pool.status("base").num_ready == 1
    assert (pool.status("morse").pool, pool.status("morse").state) == ("base", ModelState.READY)


def test_an_adapter_that_cannot_be_loaded_is_named_and_other_experts_answer(pool: Pool):
    pool.serve("law", "roman")
    pids, broken = pool.pids(), pool.folder / "adapters" / "chem"
    shutil.rmtree(broken)
    save_tiny_adapter(pool.folder / "models" / "base", broken, 2, target="nonsense")
    with pytest.raises(DeployFailed, match=r"pool-base/chem: .*nonsense"):
        pool.serve("law", "chem", "roman")
    _each_answers_with_its_own_adapter(pool, "law", "roman")
    refused = _ask(pool.url, "generalist/chem")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_broken")
    found = pool.status("chem")
    assert (found.state, found.num_ready) == (ModelState.FAILED, 0)
    assert "nonsense" in found.error
    assert str(pool.folder) not in found.error
    assert pool.status("law").error == ""

    pool.expected["chem"] = save_tiny_adapter(pool.folder / "models" / "base", broken, 5)
    pool.serve("law", "chem", "roman")
    _each_answers_with_its_own_adapter(pool, "law", "chem", "roman")
    assert pool.pids() == pids


def _each_answers_with_its_own_adapter(pool: Pool, *experts: str) -> None:
    """All at once, so that several adapters are in one batch."""
    texts = dict(zip(experts, asyncio.run(_texts(pool.url, experts)), strict=True))
    assert texts == {name: pool.text(name) for name in experts}


def _the_meta_hands_over(pool: Pool) -> None:
    tokens = [ExpertToken.load(pool.folder / f"{name}.safetensors") for name in ("law", "chem")]
    meta = ReferenceModel(pool.folder / "models" / "meta", tokens)
    text, spans = reference_answer(meta, pool.expected, question("hello"), NUM_TOKENS)
    assert [name for name, _ in spans][1:] in (["law"], ["chem"])
    assert _text(_ask(pool.url, "generalist")) == text


async def _texts(url: str, experts: tuple[str, ...]) -> list[str]:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        path = f"{url}/v1/chat/completions"
        posts = (client.post(path, json=_body(f"generalist/{name}")) for name in experts)
        return [_text(response) for response in await asyncio.gather(*posts)]


def _ask(url: str, model: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=_body(model), timeout=60, trust_env=False)


def _text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def _body(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "messages": list(question("hello")),
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
    }
