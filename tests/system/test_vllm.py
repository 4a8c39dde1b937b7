"""A meta in vLLM and an expert in the Transformers engine on a real cluster: no text is lost between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to, num_logical_cpus
from experts.token import ExpertToken
from tests.support.engine_world import needs_vllm, question, token, wins_after
from tests.support.reference_loop import ReferenceModel, reference_answer
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    needs_vllm,
]

VLLM = {"kind": "vllm", "dtype": "float32", "cache_bytes": 2**24, "enforce_eager": True, "max_streams": 8}
NUM_TURNS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    for seed, name in enumerate(("meta", "law")):
        # Without added tokens: one that the meta writes would be plain text to the expert, unlike in the
        # reference.
        save_tiny_llama(folder / "models" / name, byte_level(added=()), seed=seed, head_dim=32)
    return folder


@pytest.fixture(scope="module")
def law(folder: Path) -> ExpertToken:
    meta = ReferenceModel(folder / "models" / "meta")
    law = token(meta, "law", wins_after(meta, "hello", 3))
    law.save(folder / "law.safetensors")
    return law


@pytest.fixture(scope="module")
def url(folder: Path, law: ExpertToken) -> Iterator[str]:
    config = load_config(_write_config(folder))
    head = start_head(folder / "state", num_cpus=num_logical_cpus(config))
    try:
        with connect_to(head) as client:
            yield apply(config, client)
    finally:
        stop_head(folder / "state")


def test_an_answer_begun_in_vllm_is_finished_by_the_expert(url: str, folder: Path, law: ExpertToken):
    expert = ReferenceModel(folder / "models" / "law")
    meta = ReferenceModel(folder / "models" / "meta", [law])
    text, spans = reference_answer(meta, {"law": expert}, question("hello"), 16)
    assert [name for name, _ in spans] == ["meta", "law"]
    answer = _ask(url, "generalist")
    assert answer["choices"][0]["message"]["content"] == text
    assert [span["model"] for span in answer["choices"][0]["routing"]["spans"]] == ["meta", "law"]
    alone, _ = meta.write(question("hello"), "", 3)
    assert _ask(url, "generalist/meta", 3)["choices"][0]["message"]["content"] == meta.text(alone)


def test_a_conversation_stays_on_the_replica_with_its_cache(url: str):
    before = _written(url)
    for _ in range(NUM_TURNS):
        _ask(url, "generalist/meta", 3)

    def all_counted() -> bool:
        return sum(_written(url).values()) - sum(before.values()) == 3 * NUM_TURNS

    assert until(all_counted, 30.0), "load reports are cached only briefly"
    after = _written(url)
    assert len(after) == 2
    assert sorted(after[name] - before[name] for name in after) == [0, 3 * NUM_TURNS]


def _written(url: str) -> dict[str, int]:
    """The number of tokens that each replica of the meta has generated."""
    stats = httpx.get(f"{url}/stats", timeout=60, trust_env=False).raise_for_status().json()
    return {load["replica"]: load["num_tokens"] for load in stats["models"]["meta"]["replicas"]}


def _ask(url: str, model: str, max_tokens: int = 16) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": list(question("hello")),
        "temperature": 0,
        "max_tokens": max_tokens,
        "routing": {"trace": True},
    }
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def _write_config(folder: Path) -> Path:
    config = {
        "meta": {
            "model": {"path": "models/meta"},
            "engine": VLLM,
            "autoscaling": {"min_replicas": 2, "max_replicas": 2},
        },
        "experts": {
            "law": {
                "model": {"path": "models/law"},
                "engine": {"dtype": "float32", "num_threads": 1},
                "token": "law.safetensors",
            }
        },
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
