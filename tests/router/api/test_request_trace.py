"""The spans of requests: how they hang together, and what they tell."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from router.dialects.app import build_app
from router.errors import ModelFailed
from router.table import Tracing
from router.tracing import SpanKind, TraceContext, TraceSpan
from tests.fakes.models import FakeGateway, FakeModel, distributes, hands_over, models, turns, word, writes

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
SECRET = "SECRET-91"


@dataclass
class KeepingTracer:
    settings: Tracing | None = Tracing(endpoint="http://collector/v1/traces", sampling_ratio=0.0)
    spans: list[TraceSpan] = field(default_factory=list)

    def record(self, spans: Sequence[TraceSpan]) -> None:
        self.spans += spans

    def named(self, name: str) -> TraceSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def tracer() -> KeepingTracer:
    return KeepingTracer()


@pytest.fixture
def gateway(tracer: KeepingTracer) -> FakeGateway:
    scripts = models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", SECRET), morse=writes("-"))
    return FakeGateway(scripts, tracer=tracer)


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"What is 9? {SECRET}"}], **fields}


def parent(gateway: FakeGateway, name: str) -> TraceContext:
    model = gateway.models[name]
    assert isinstance(model, FakeModel)
    context = TraceContext.read(model.asks[-1].trace_headers)
    assert context is not None
    return context


async def test_the_calls_of_an_answer_hang_below_its_request(
    client: httpx.AsyncClient, tracer: KeepingTracer, gateway: FakeGateway
):
    response = await client.post(CHAT, json=chat(temperature=0, max_tokens=50), headers=SAMPLED)
    request = tracer.named("POST /v1/chat/completions")
    assert (request.kind, request.parent_id, request.error) == (SpanKind.SERVER, PARENT, None)
    assert {span.context.trace_id for span in tracer.spans} == {TRACE}
    calls = [tracer.named("chat meta"), tracer.named("chat roman")]
    for call, name in zip(calls, ("meta", "roman"), strict=True):
        assert (call.kind, call.parent_id) == (SpanKind.CLIENT, request.context.span_id)
        assert request.began_s - 0.1 <= call.began_s <= call.ended_s <= request.ended_s + 0.1
        # The model's replica hangs its own span below the call's.
        assert parent(gateway, name) == call.context
        assert call.context.state == "vendor=1"
    assert {"gen_ai.response.id": response.json()["id"], "etr.num_handoffs": 1}.items() <= (
        request.attributes.items()
    )


async def test_a_request_tells_what_the_conventions_ask(client: httpx.AsyncClient, tracer: KeepingTracer):
    headers = {**SAMPLED, "x-request-id": "id-1"}
    await client.post(CHAT, json=chat(temperature=0.5, max_tokens=50, n=2), headers=headers)
    attributes = tracer.named("POST /v1/chat/completions").attributes
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "generalist",
        "gen_ai.response.model": "generalist",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": False,
        "gen_ai.usage.output_tokens": 6,
        "gen_ai.response.finish_reasons": ["stop", "stop"],
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "etr.request_id": "id-1",
        "etr.table_version": 7,
        "etr.is_complete": True,
    }
    assert expected.items() <= attributes.items()


async def test_every_name_of_the_conventions_exists(client: httpx.AsyncClient, tracer: KeepingTracer):
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    await client.post(CHAT, json=chat(), headers=SAMPLED)
    used = {name for span in tracer.spans for name in span.attributes if name.startswith("gen_ai.")}
    assert used <= known


async def test_a_call_tells_its_tokens_and_its_decision(client: httpx.AsyncClient, tracer: KeepingTracer):
    await client.post(CHAT, json=chat(), headers=SAMPLED)
    meta, roman = tracer.named("chat meta").attributes, tracer.named("chat roman").attributes
    assert meta["gen_ai.response.finish_reasons"] == ["expert"]
    assert (meta["etr.expert"], meta["etr.probability"]) == ("roman", 0.9)
    assert (meta["gen_ai.usage.input_tokens"], meta["gen_ai.usage.output_tokens"]) == (3, 1)
    assert "etr.expert" not in roman
    assert (roman["server.address"], roman["gen_ai.usage.output_tokens"]) == ("roman", 2)


async def test_the_phases_of_a_call_hang_below_it(client: httpx.AsyncClient, tracer: KeepingTracer):
    await client.post(CHAT, json=chat(), headers=SAMPLED)
    for name in ("chat meta", "chat roman"):
        call = tracer.named(name)
        phases = [span for span in tracer.spans if span.parent_id == call.context.span_id]
        assert {span.name for span in phases} <= {"admission", "prefill", "decode", "decision"}
        assert {"decision" if name == "chat meta" else "decode"} <= {span.name for span in phases}
        for before, after in zip(phases, phases[1:], strict=False):
            assert before.ended_s <= after.began_s + 1e-4
    assert tracer.named("decision").attributes == {"etr.expert": "roman", "etr.probability": 0.9}


async def test_no_span_holds_text(client: httpx.AsyncClient, tracer: KeepingTracer):
    await client.post(CHAT, json=chat(stop=[SECRET + "x"]), headers=SAMPLED)
    await client.get(f"/{'x' * 200}{SECRET}", headers=SAMPLED)
    assert tracer.spans
    assert SECRET not in repr(tracer.spans)


async def test_text_is_recorded_if_the_operator_wants_it(client: httpx.AsyncClient, tracer: KeepingTracer):
    assert tracer.settings is not None
    tracer.settings = tracer.settings.model_copy(update={"include_text": True})
    await client.post(CHAT, json=chat(), headers=SAMPLED)
    attributes = tracer.named("POST /v1/chat/completions").attributes
    question = {"role": "user", "parts": [{"type": "text", "content": f"What is 9? {SECRET}"}]}
    answer = {"role": "assistant", "parts": [{"type": "text", "content": f"It is I{SECRET}"}]}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [question]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [{**answer, "finish_reason": "stop"}]


async def test_a_request_that_is_not_sampled_is_passed_on_and_not_recorded(
    client: httpx.AsyncClient, tracer: KeepingTracer, gateway: FakeGateway
):
    await client.post(CHAT, json=chat(), headers=UNSAMPLED)
    assert parent(gateway, "roman").headers() == UNSAMPLED
    await client.post(CHAT, json=chat())  # the ratio is 0
    assert not parent(gateway, "roman").is_sampled
    assert not tracer.spans


async def test_without_tracing_a_client_s_trace_is_passed_on(
    client: httpx.AsyncClient, tracer: KeepingTracer, gateway: FakeGateway
):
    tracer.settings = None
    await client.post(CHAT, json=chat(), headers=SAMPLED)
    assert parent(gateway, "roman").headers() == SAMPLED
    await client.post(CHAT, json=chat())
    model = gateway.models["roman"]
    assert isinstance(model, FakeModel)
    assert model.asks[-1].trace_headers == {}
    assert not tracer.spans


async def test_a_failure_marks_the_call_and_the_request(
    client: httpx.AsyncClient, tracer: KeepingTracer, gateway: FakeGateway
):
    gateway.models = models(meta=turns([word("a"), ModelFailed("broken")]))
    response = await client.post(CHAT, json=chat(stream=True), headers=SAMPLED)
    assert "server_error" in response.text
    request = tracer.named("POST /v1/chat/completions")
    assert (request.error, tracer.named("chat meta").error) == ("model_failed", "model_failed")
    assert request.attributes["etr.is_complete"] is False


async def test_a_refused_request_is_recorded_too(client: httpx.AsyncClient, tracer: KeepingTracer):
    assert (await client.post(CHAT, json={}, headers=SAMPLED)).status_code == 400
    (request,) = tracer.spans
    assert (request.attributes["http.response.status_code"], request.error) == (400, None)


async def test_a_decision_without_an_answer_is_recorded(
    client: httpx.AsyncClient, tracer: KeepingTracer, gateway: FakeGateway
):
    gateway.models = models(meta=distributes(roman=0.8))
    await client.post("/v1/route", json=chat(), headers=SAMPLED)
    assert tracer.named("POST /v1/route").attributes["gen_ai.response.finish_reasons"] == ["expert"]
    assert tracer.named("chat meta").attributes["etr.expert"] == "roman"


async def test_health_checks_are_not_recorded(client: httpx.AsyncClient, tracer: KeepingTracer):
    await client.get("/healthz", headers=SAMPLED)
    assert not tracer.spans


async def test_completions_have_their_own_operation(client: httpx.AsyncClient, tracer: KeepingTracer):
    await client.post(TEXT, json={"prompt": "a", "model": "generalist/morse"}, headers=SAMPLED)
    assert tracer.named("text_completion morse").kind is SpanKind.CLIENT
