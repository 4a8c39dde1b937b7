"""Spans on their way to a real receiver, from the router and from the replicas of models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from time import time_ns

import httpx
import pytest

from cluster.polling import until
from deployments.model import ModelServer
from deployments.replicas.wire_format import pack
from deployments.tracing.tracer import OtlpTracer
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest
from experts.errors import EngineFailed
from router.dialects.app import build_app
from router.table import Tracing
from tests.fakes.grpc_replica import ScriptedEngine
from tests.fakes.models import FakeGateway, hands_over, models, writes
from tests.fakes.otlp_receiver import OtlpReceiver, receiving_spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
HELLO = {"messages": [{"role": "user", "content": "What is 9?"}]}


@pytest.fixture(autouse=True)
def _fast_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("deployments.tracing.otlp.SCHEDULE_DELAY_MS", 10.0)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with receiving_spans() as receiver:
        yield receiver


@pytest.fixture
async def tracer() -> AsyncIterator[OtlpTracer]:
    tracer = OtlpTracer()
    yield tracer
    await tracer.close()


async def ask(tracer: OtlpTracer, **headers: str) -> httpx.Response:
    scripts = models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X"))
    app = build_app(FakeGateway(scripts, tracer=tracer))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
        return await client.post("/v1/chat/completions", json=HELLO, headers=headers)


async def ask_replica(server: ModelServer, headers: dict[str, str]) -> None:
    async with aclosing(server.generate(pack(EngineRequest("r", text="q", trace_headers=headers)))) as chunks:
        async for _ in chunks:
            pass


async def test_a_receiver_gets_the_spans_of_a_request(receiver: OtlpReceiver, tracer: OtlpTracer):
    began_ns = time_ns()
    await tracer.configure(Tracing(endpoint=receiver.url, service="my-cluster"))
    await ask(tracer, **SAMPLED)
    spans = await asyncio.to_thread(receiver.wait_for, "POST /v1/chat/completions", "chat roman")
    request, call = spans["POST /v1/chat/completions"], spans["chat roman"]
    assert {span.trace_id for span in spans.values()} == {TRACE}
    assert (request.kind, request.parent_id, request.state) == ("SERVER", PARENT, "vendor=1")
    assert (call.kind, call.parent_id) == ("CLIENT", request.span_id)
    assert began_ns < request.began_ns < request.ended_ns < time_ns()
    assert request.resource["service.name"] == "my-cluster"
    assert request.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert not request.has_failed


async def test_a_trace_without_a_sender_begins_with_the_request(receiver: OtlpReceiver, tracer: OtlpTracer):
    await tracer.configure(Tracing(endpoint=receiver.url, sampling_ratio=1.0))
    await ask(tracer)
    spans = await asyncio.to_thread(receiver.wait_for, "POST /v1/chat/completions", "chat roman")
    assert spans["POST /v1/chat/completions"].parent_id == ""
    assert len({span.trace_id for span in spans.values()}) == 1


async def test_a_replica_adds_its_span_below_the_call(receiver: OtlpReceiver):
    chunks = [
        EngineChunk("a", (1,), num_prompt_tokens=5, queue_s=0.25, prefill_s=0.5),
        EngineChunk("b", (2, 3), finish=FinishReason.LENGTH),
    ]
    server = ModelServer(ScriptedEngine(chunks))
    await server.reconfigure({"tracing": {"endpoint": receiver.url}})
    await ask_replica(server, SAMPLED)
    await ask_replica(server, {})  # a call without a trace, such as a probe, leaves no span
    await server.close()
    (span,) = receiver.spans
    assert (span.name, span.kind, span.trace_id, span.parent_id) == ("generate", "SERVER", TRACE, PARENT)
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["length"],
        "etr.engine_queue_ms": 250.0,
        "etr.prefill_ms": 500.0,
    }
    assert expected.items() <= span.attributes.items()


async def test_an_engine_s_servers_are_told_the_replica_s_span(receiver: OtlpReceiver):
    seen: list[dict[str, str]] = []

    class Engine(ScriptedEngine):
        async def generate(self, request: EngineRequest):
            seen.append(dict(request.trace_headers))
            async for chunk in super().generate(request):
                yield chunk

    server = ModelServer(Engine([EngineChunk(finish=FinishReason.STOP)]))
    await ask_replica(server, SAMPLED)  # nothing is recorded, and the trace goes on
    await server.reconfigure({"tracing": {"endpoint": receiver.url}})
    await ask_replica(server, SAMPLED)
    await server.close()
    (span,) = receiver.spans
    assert seen == [SAMPLED, {**SAMPLED, "traceparent": f"00-{TRACE}-{span.span_id}-01"}]


async def test_a_call_that_fails_is_marked(receiver: OtlpReceiver):
    server = ModelServer(ScriptedEngine([EngineChunk("a", (1,)), KeyError("q")]))
    await server.reconfigure({"tracing": {"endpoint": receiver.url}})
    with pytest.raises(EngineFailed):
        await ask_replica(server, SAMPLED)
    await server.close()
    (span,) = receiver.spans
    assert span.has_failed
    assert span.attributes["error.type"] == "KeyError"


async def test_failures_of_the_receiver_are_logged_once(
    receiver: OtlpReceiver, tracer: OtlpTracer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    receiver.status = 400
    await tracer.configure(Tracing(endpoint=receiver.url))
    for num_requests in (1, 2, 3):
        assert (await ask(tracer, **SAMPLED)).status_code == 200
        await asyncio.to_thread(wait_for_requests, receiver, num_requests)
    receiver.status = 200
    await ask(tracer, **SAMPLED)
    await tracer.close()
    logged = [record.getMessage() for record in caplog.records if "httpx" not in record.name]
    place = receiver.url.split("/")[2]
    assert logged == [
        f"spans cannot be sent to {place} and are lost; answers are not affected",
        f"spans are sent to {place} again",
    ]


async def test_without_a_receiver_answers_come_and_a_replica_stops_in_time(
    tracer: OtlpTracer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("deployments.tracing.otlp.REQUEST_TIMEOUT_S", 0.2)
    await tracer.configure(Tracing(endpoint="http://127.0.0.1:1/v1/traces"))
    assert (await ask(tracer, **SAMPLED)).status_code == 200
    async with asyncio.timeout(5):
        await tracer.close()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "spans cannot be sent to 127.0.0.1:1 and are lost; answers are not affected"
    ]


async def test_headers_come_from_the_environment(
    receiver: OtlpReceiver, tracer: OtlpTracer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTLP_HEADERS", "x-api-key=abc==,x-team=routing")
    await tracer.configure(Tracing(endpoint=receiver.url, headers_env="OTLP_HEADERS"))
    await ask(tracer, **SAMPLED)
    await tracer.close()
    assert {"x-api-key": "abc==", "x-team": "routing"}.items() <= receiver.headers[0].items()


async def test_a_missing_variable_is_logged_and_nothing_is_traced(
    receiver: OtlpReceiver, tracer: OtlpTracer, caplog: pytest.LogCaptureFixture
):
    await tracer.configure(Tracing(endpoint=receiver.url, headers_env="NOT_SET"))
    assert (await ask(tracer, **SAMPLED)).status_code == 200
    assert "NOT_SET is not set on this node" in caplog.text
    assert tracer.settings is None


async def test_settings_change_while_requests_come(receiver: OtlpReceiver, tracer: OtlpTracer):
    await ask(tracer, **SAMPLED)
    await tracer.configure(Tracing(endpoint=receiver.url))
    await ask(tracer, **SAMPLED)
    await tracer.configure(None)  # what was recorded is sent first
    num_spans = len(receiver.spans)
    assert num_spans > 0
    await ask(tracer, **SAMPLED)
    await tracer.close()
    assert len(receiver.spans) == num_spans


def wait_for_requests(receiver: OtlpReceiver, num_requests: int) -> None:
    assert until(lambda: len(receiver.headers) >= num_requests, 10, 0.01)
