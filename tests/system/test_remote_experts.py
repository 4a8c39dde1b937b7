"""Remote experts and embedders on a real cluster: its own address, and a fake OpenAI server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from openai import OpenAI

from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to, num_logical_cpus
from experts.token import ExpertToken, checkpoint_fingerprint
from tests.fakes.openai_server import OpenAIServer, serving
from tests.tiny.models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

KEY = "sk-canary-9876543210"
QUESTION = [{"role": "user", "content": "hello"}]
NUM_TOKENS = 8
ALWAYS = 100.0  # a bias that beats every word


@dataclass(frozen=True)
class Cluster:
    """`near`: a model of this cluster. `far`: `near` as a remote expert. `other`: the fake server."""

    url: str
    logs: Path
    server: OpenAIServer

    def ask(self, model: str = "generalist", **routing: Any) -> dict[str, Any]:
        body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": NUM_TOKENS}
        if routing:
            body["routing"] = {"trace": True, **routing}
        response = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
        answer: dict[str, Any] = response.raise_for_status().json()["choices"][0]
        return answer

    def text(self, model: str) -> str:
        return str(self.ask(f"generalist/{model}")["message"]["content"])

    def continued(self, model: str, messages: list[dict[str, str]], max_tokens: int) -> str:
        """What the model adds to the last message."""
        body = {
            "model": f"generalist/{model}",
            "messages": messages,
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        body |= {"continue_final_message": True, "add_generation_prompt": False}
        response = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
        return str(response.raise_for_status().json()["choices"][0]["message"]["content"])

    def handed_over_after_words(self, expert: str) -> tuple[float, dict[str, Any]]:
        """A bias with which the meta hands over after some words of its own, and the answer."""
        for bias in range(1, 40):
            answer = self.ask(experts=[expert], bias={expert: float(bias)})
            writers = [span["model"] for span in answer["routing"]["spans"]]
            if writers == ["meta", expert]:
                return float(bias), answer
        raise AssertionError(f"the meta never hands over to {expert} after words of its own")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder, server = tmp_path_factory.mktemp("remote"), OpenAIServer()
    with serving(server) as url:
        config = load_config(_write_config(folder, url))
        environment = {"OTHER_KEY": KEY, "NO_PROXY": "*"}
        head = start_head(folder / "state", num_cpus=num_logical_cpus(config), env=environment)
        try:
            with connect_to(head) as client:
                yield Cluster(apply(config, client, poll_s=0.2), Path(head.temp_dir), server)
        finally:
            stop_head(folder / "state")


def test_a_remote_expert_answers_a_routed_question(cluster: Cluster):
    answer = cluster.ask(experts=["far"], bias={"far": ALWAYS})
    assert answer["message"]["content"] == cluster.text("near") == cluster.text("far")
    assert [span["model"] for span in answer["routing"]["spans"]] == ["far"]
    assert answer["finish_reason"] == "length"


def test_a_server_that_continues_messages_is_called_in_the_middle_of_an_answer(cluster: Cluster):
    _, answer = cluster.handed_over_after_words("other")
    meta, other = answer["routing"]["spans"]
    turns = [*QUESTION, {"role": "assistant", "content": meta["text"]}]
    expected = cluster.server.answer(turns, NUM_TOKENS - meta["num_tokens"], is_open=True)
    assert (other["text"], other["num_tokens"]) == (expected, len(expected.split()))
    assert set(cluster.server.keys) == {f"Bearer {KEY}"}


def test_a_cluster_is_such_a_server_too(cluster: Cluster):
    _, answer = cluster.handed_over_after_words("far")
    meta, far = answer["routing"]["spans"]
    turns = [*QUESTION, {"role": "assistant", "content": meta["text"]}]
    assert far["text"] == cluster.continued("near", turns, NUM_TOKENS - meta["num_tokens"])


def test_the_meta_answers_if_the_remote_server_fails(cluster: Cluster):
    cluster.server.failures = [(401, {})]
    answer = cluster.ask(experts=["other"], bias={"other": ALWAYS})
    assert answer["message"]["content"] == cluster.text("meta")
    assert cluster.server.failures == []


def test_the_official_sdk_gets_embeddings(cluster: Cluster):
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as sdk:
        both = sdk.embeddings.create(model="generalist/vectors", input=["iron", "law"])
        alone = sdk.embeddings.create(model="generalist/vectors", input="law")
    assert both.usage.prompt_tokens > alone.usage.prompt_tokens > 0
    assert len(both.data[0].embedding) == HIDDEN_SIZE
    assert both.data[1].embedding == pytest.approx(alone.data[0].embedding, abs=1e-5)
    assert both.data[0].embedding != pytest.approx(alone.data[0].embedding, abs=1e-2)


def test_embeddings_come_from_another_server(cluster: Cluster):
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as sdk:
        found = sdk.embeddings.create(model="generalist/far-vectors", input=["iron and gold", "law"])
    assert [tuple(each.embedding) for each in found.data] == [
        cluster.server.embedding("iron and gold"),
        cluster.server.embedding("law"),
    ]
    assert found.usage.prompt_tokens == 4


def test_replica_logs_have_the_servers_abilities_but_no_key(cluster: Cluster):
    files = [path for path in cluster.logs.rglob("*") if path.suffix in (".log", ".out", ".err")]
    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    assert "other: the server continues assistant messages that have text" in logs
    assert "refuses the key in OTHER_KEY" in logs
    assert KEY not in logs


def _write_config(folder: Path, url: str) -> Path:
    (port,) = free_ports(1)
    for seed, name in enumerate(("meta", "near")):
        save_tiny_llama(folder / "models" / name, byte_level(), seed=seed)
    found = checkpoint_fingerprint(folder / "models" / "meta")
    assert found is not None
    experts: dict[str, Any] = {
        "near": {"model": {"path": "models/near"}},
        "far": {"remote": {"url": f"http://127.0.0.1:{port}/v1", "model": "generalist/near"}},
        "other": {"remote": {"url": url, "model": "other-7b", "api_key_env": "OTHER_KEY"}},
    }
    for number, name in enumerate(experts):
        # Small, so that the bias of the request decides; and different for every expert.
        vector = torch.full((HIDDEN_SIZE,), 1e-4 * (1 + number))
        token = ExpertToken(name, vector, 0.0, meta_name="meta", meta_fingerprint=found[0])
        token.save(folder / f"{name}.safetensors")
        experts[name]["token"] = f"{name}.safetensors"
    config = {
        "meta": {"model": {"path": "models/meta"}},
        "experts": experts,
        "embeddings": {
            "vectors": {"model": {"path": "models/near"}, "engine": {"pooling": "last"}},
            "far-vectors": {"remote": {"url": url, "model": "vectors-1", "api_key_env": "OTHER_KEY"}},
        },
        "http": {"port": port},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
