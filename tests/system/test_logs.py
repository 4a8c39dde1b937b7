"""The logs of a whole cluster: every file of the session's logs folder is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.config.cluster_config import load_config
from cluster.local.head import Head, start_head, stop_head
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to
from tests.fakes.otlp_receiver import receiving_spans

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CANARY = "CANARY7f3a91"
KEY, WRONG_KEY = f"right-{CANARY}-0123456789", f"wrong-{CANARY}-0123456789"
LEFT = tuple(f"left-{i}" for i in range(8))
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# Serve buffers a thousand lines by default, and this test would find none.
ENV = {"RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1", "NO_PROXY": "*"}
# Refuses some prompts and fails for others. Both errors quote the prompt.
FAILING_TEMPLATE = (
    "{% set last = messages[-1]['content'] %}"
    "{% if last.startswith('REFUSE') %}{{ raise_exception('refused: ' + last) }}{% endif %}"
    "{% if last.startswith('BREAK') %}{{ last.format() }}{% endif %}"
)


@dataclass(frozen=True)
class Guarded:
    """A cluster with a key: its URL, its logs folder, its cluster.yaml, and a way to change it."""

    url: str
    logs: Path
    file: Path
    head: Head

    def change(self, **blocks: Any) -> None:
        text = yaml.safe_load(self.file.read_text(encoding="utf-8")) | blocks
        self.file.write_text(yaml.safe_dump(text), encoding="utf-8")
        with connect_to(self.head) as client:
            apply(load_config(self.file), client)


@pytest.fixture
def guarded(taught_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    """The taught meta alone, with a failing template and an API key."""
    shutil.copytree(taught_world / "models" / "meta", tmp_path / "meta")
    template = tmp_path / "meta" / "chat_template.jinja"
    template.write_text(FAILING_TEMPLATE + template.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setenv("CANARY_KEYS", KEY)
    text = {
        "name": "chatty",
        "meta": {
            "model": {"path": "meta"},
            "engine": {"dtype": "float32", "max_model_len": 512, "num_threads": 1},
            "resources": {"num_cpus": 0.25},
        },
        "http": {"host": "127.0.0.1", "port": free_ports(1)[0], "keys_env": "CANARY_KEYS"},
    }
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    head = start_head(tmp_path / "state", num_cpus=4, env=ENV)
    try:
        with connect_to(head) as client:
            url = apply(load_config(path), client)
        yield Guarded(url, Path(head.temp_dir, "session_latest", "logs"), path, head)
    finally:
        stop_head(tmp_path / "state")


async def test_logs_contain_no_prompts_answers_or_keys(guarded: Guarded):
    url, folder = guarded.url, guarded.logs
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:

        async def ask(name: str, content: str, **headers: str) -> httpx.Response:
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 24, "temperature": 0}
            return await http.post(
                "/v1/chat/completions", json=body, headers={"x-request-id": name, **headers}
            )

        whole = await ask("id-whole", f"hello {CANARY}")
        assert whole.status_code == 200
        assert whole.headers["x-request-id"] == "id-whole"
        answer = whole.json()["choices"][0]["message"]["content"].strip()
        for name, content, status in (
            ("id-refused", f"REFUSE {CANARY}", 400),
            ("id-long", f"{CANARY} " * 600, 400),
            ("id-broken", f"BREAK {{{CANARY}}}", 500),
            ("id-broken-again", f"BREAK {{{CANARY}}}", 500),
        ):
            assert (await ask(name, content)).status_code == status
        assert (await ask("id-wrong-key", CANARY, authorization=f"Bearer {WRONG_KEY}")).status_code == 401
        for header in ("x-request-disconnect-disabled", "x-request-timeout-seconds"):
            # The router would refuse it, but Serve's proxy removes it before.
            assert (await ask(f"id-{header}", "hello", **{header: "1"})).status_code == 200
        latin = await http.get("/v1/models", headers={b"x-request-id": b"\xe9\xff"})
        assert latin.status_code == 200
        body = {"messages": [{"role": "user", "content": f"hello {CANARY}"}], "stream": True}
        for name in LEFT:
            async with http.stream(
                "POST", "/v1/chat/completions", json=body, headers={"x-request-id": f"id-{name}"}
            ) as stream:
                await anext(stream.aiter_lines())  # then disconnect

    def text() -> str:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in files)

    def missing() -> set[str]:
        """What the router has not logged. A model logs only what it was called for."""
        logged = "\n".join(path.read_text() for path in folder.glob("serve/replica_router_Router_*.log"))
        names = ("whole", "refused", "long", "broken", "broken-again", *LEFT)
        return {name for name in names if f" id-{name} -- POST" not in logged}

    until(lambda: not missing(), 60)
    assert not missing()
    logged = text()
    # Each failure was logged; otherwise the test would prove nothing.
    assert "[InvalidPrompt (invalid_prompt) at " in logged
    assert "[ContextLengthExceeded (context_length_exceeded) at " in logged
    assert logged.count("EngineFailed: KeyError at ") >= 2
    assert logged.count("raise EngineFailed(") == 1  # one traceback
    assert CANARY not in logged
    assert len(answer) < 8 or answer not in logged

    # On the same cluster, whose start takes longest.
    with receiving_spans() as receiver:
        guarded.change(log_format="json", tracing={"endpoint": receiver.url, "sampling_ratio": 0.0})
        sent = {"x-request-id": "id-traced", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        async with httpx.AsyncClient(base_url=url, headers=headers | sent, timeout=60) as http:
            body = {"messages": [{"role": "user", "content": f"hello {CANARY}"}], "max_tokens": 4}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        spans = receiver.wait_for("POST /v1/chat/completions", "chat meta", "generate meta")
        request, call, replica = (
            spans[name] for name in ("POST /v1/chat/completions", "chat meta", "generate meta")
        )
        assert (request.trace_id, request.parent_id) == (TRACE, PARENT)
        assert (call.parent_id, replica.parent_id) == (request.span_id, call.span_id)
        assert {span.resource["etr.app"] for span in spans.values()} == {"router", "meta"}
        assert replica.attributes["gen_ai.usage.output_tokens"] == 4
        assert CANARY not in repr(receiver.spans)

    def traced() -> list[dict[str, Any]]:
        files = folder.glob("serve/replica_router_Router_*.log")
        lines = [line for path in files for line in path.read_text().splitlines() if "id-traced" in line]
        return [json.loads(line) for line in lines if line.startswith("{")]

    assert until(lambda: bool(traced()), 60)
    assert {line["request_id"] for line in traced()} == {"id-traced"}
