"""Models behind a URL, tested with real HTTP servers that behave like those of other projects."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import pytest

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import OpenAIConfig
from experts.engine.openai.engine import OpenAIEngine
from experts.engine.request import EngineRequest, Grammar, GrammarKind, Resumed, SamplingOptions
from experts.errors import (
    ContextLengthExceeded,
    EngineDead,
    InvalidCall,
    RemoteBusy,
    RemoteMisconfigured,
    RemoteUnavailable,
    TurnNotContinued,
)
from router.dialects.app import build_app
from tests.fakes.models import FakeGateway, FakeModel, models, served, within_budget, writes
from tests.fakes.openai_server import CHATML, OpenAIServer, serving
from tests.support.remote_engine import (
    KEY,
    MESSAGES,
    engine_at,
    gather_into,
    num_tokens,
    run,
    text_of,
    wait_until,
)


@pytest.fixture(autouse=True)
def _fast_local_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("CHEM_KEY", KEY)
    monkeypatch.setattr("experts.engine.openai.client.FIRST_RETRY_DELAY_S", 0.001)


async def test_an_answer_is_streamed_and_its_tokens_are_counted_by_the_server():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url) as engine:
            chunks = await run(engine, max_tokens=12)
    answer = server.answer(MESSAGES, 12)
    assert text_of(chunks) == answer
    assert len([chunk for chunk in chunks if chunk.text]) == len(answer.split()) == num_tokens(chunks)
    assert [chunk.finish for chunk in chunks] == [None] * (len(chunks) - 1) + [FinishReason.LENGTH]
    prompt = ["<user>", *MESSAGES[0]["content"].split(), "<end>", *CHATML[0]]
    assert chunks[-1].num_prompt_tokens == len(prompt)
    assert engine.stats().num_tokens == num_tokens(chunks)


async def test_without_usage_each_piece_of_text_counts_as_one_token():
    with serving(OpenAIServer(reports_usage=False)) as url:
        async with engine_at(url) as engine:
            chunks = await run(engine, max_tokens=5)
    assert (num_tokens(chunks), chunks[-1].num_prompt_tokens) == (5, None)


async def test_all_sampling_parameters_are_sent():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url, api_key_env="CHEM_KEY", limit_field="max_completion_tokens") as engine:
            await run(engine, temperature=0.7, top_p=0.9, top_k=5, seed=2**63 - 1, position=3, max_tokens=4)
            await run(engine, text="iron is", max_tokens=4)
    chat, raw = server.bodies
    assert chat == {
        "model": "chem-7b",
        "messages": [*MESSAGES],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 2,
        "max_completion_tokens": 4,
    }
    assert raw["max_tokens"] == 4
    assert server.keys == [f"Bearer {KEY}"] * 2


async def test_a_field_that_the_server_refuses_is_named():
    blamed = [({"param": "min_p"}, "min_p"), ({"message": "`bad_words` is unknown"}, "bad_words"), ({}, None)]
    for error, param in blamed:
        with serving(OpenAIServer(failures=[(400, {"error": ERROR | error})])) as url:
            async with engine_at(url, retries=0) as engine:
                with pytest.raises(InvalidCall) as caught:
                    await run(engine, sampling=SamplingOptions(min_p=0.1))
                assert caught.value.param == param


async def test_what_a_server_cannot_do_is_refused_before_it_is_asked():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url, continuation="always") as engine:
            with pytest.raises(InvalidCall, match="prompt_logprobs"):
                await run(engine, sampling=SamplingOptions(num_prompt_logprobs=0))
            resumed = Resumed('{"a', (), "")
            with pytest.raises(TurnNotContinued, match="grammar"):
                await run(
                    engine,
                    resumed=resumed,
                    sampling=SamplingOptions(grammar=Grammar(GrammarKind.JSON_OBJECT)),
                )
    assert server.bodies == []


async def test_omitted_fields_are_not_sent():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url, omit=["temperature", "stream_options"], continuation="always") as engine:
            await run(engine, max_tokens=2)
            await run(engine, written="iron", max_tokens=2)
    assert not {"temperature", "stream_options"} & {field for body in server.bodies for field in body}
    assert all("top_p" in body for body in server.bodies)


async def test_text_can_be_appended_to_raw_prompts_but_not_to_ids():
    server = OpenAIServer(open_turns="ignored")
    with serving(server) as url:
        async with engine_at(url) as engine:
            whole = text_of(await run(engine, text="iron is", max_tokens=6))
            written = "".join(f" {word}" for word in whole.split()[:2])
            rest = text_of(await run(engine, text="iron is", written=written, max_tokens=4))
            assert written + rest == whole
            assert text_of(await run(engine, ids=(1, 2, 3), max_tokens=4))
            with pytest.raises(TurnNotContinued, match="text cannot be appended to token ids"):
                await run(engine, ids=(1, 2, 3), written="a")
    assert server.bodies[-1]["prompt"] == [1, 2, 3]


TOO_LONG = "maximum context length is exceeded by the prompt"
ERROR = {"message": f"no {KEY}\nhere", "type": "invalid_request_error", "code": None}
REFUSALS: list[tuple[int, Any, type[Exception], str]] = [
    (
        401,
        {"error": ERROR},
        RemoteMisconfigured,
        "refuses the key in CHEM_KEY; correct that variable",
    ),
    (403, "no", RemoteMisconfigured, "refuses the key in CHEM_KEY"),
    (404, {"error": ERROR}, RemoteMisconfigured, "does not serve 'chem-7b' (HTTP 404); correct remote.url"),
    (307, {}, RemoteMisconfigured, "does not serve 'chem-7b' (HTTP 307)"),
    (400, {"error": ERROR}, InvalidCall, "refuses the request: no *** here"),
    (422, {"detail": [{"loc": ["body"]}]}, InvalidCall, "refuses the request"),
    (400, {"error": ERROR | {"code": "context_length_exceeded"}}, ContextLengthExceeded, TOO_LONG),
    (
        400,
        {"object": "error", "message": "maximum context length is 9"},
        ContextLengthExceeded,
        "length is 9 tokens",
    ),
    (
        400,
        {"error": ERROR | {"message": "max_tokens=4000 cannot be greater than max_model_len=256."}},
        ContextLengthExceeded,
        TOO_LONG,
    ),
    (400, {"error": {"type": "exceed_context_size_error"}}, ContextLengthExceeded, TOO_LONG),
    (422, {"error": "`inputs` must have less than 9 tokens. Given: 10"}, ContextLengthExceeded, TOO_LONG),
    (500, {"error": ERROR}, RemoteUnavailable, "failed (HTTP 500)"),
    (503, "<html>", RemoteUnavailable, "failed (HTTP 503)"),
    (429, {"error": ERROR}, RemoteBusy, "accepts no more requests at present (HTTP 429)"),
]


@pytest.mark.parametrize(
    ("status", "body", "error_type", "message"),
    REFUSALS,
    ids=[f"{refusal[0]}-{refusal[2].__name__}" for refusal in REFUSALS],
)
async def test_a_refusal_becomes_one_of_our_errors_and_never_shows_the_key(
    status, body, error_type, message, caplog
):
    caplog.set_level(logging.DEBUG)
    with serving(OpenAIServer(failures=[(status, body)])) as url:
        async with engine_at(url, api_key_env="CHEM_KEY", retries=0) as engine:
            with pytest.raises(error_type) as caught:
                await run(engine)
            assert type(caught.value) is error_type
            assert message in str(caught.value)
            assert KEY not in repr(caught.value) + caplog.text
            assert text_of(await run(engine, max_tokens=2))  # the next request succeeds


async def test_a_request_is_retried_until_part_of_the_answer_has_arrived():
    temporary: list[tuple[int, Any]] = [(503, {}), (429, {})]
    server = OpenAIServer(failures=[*temporary])
    with serving(server) as url:
        async with engine_at(url) as engine:
            assert text_of(await run(engine, max_tokens=2))
            assert len(server.bodies) == 3
            server.failures = [*temporary, (502, {})]
            with pytest.raises(RemoteUnavailable, match="HTTP 502"):
                await run(engine)
            server.failures, server.headers = [(429, {})], {"retry-after": "60"}
            with pytest.raises(RemoteBusy):  # without waiting for a minute
                await run(engine)
    assert len(server.bodies) == 3 + 3 + 1


async def test_an_address_without_a_server_is_unavailable():
    with serving(OpenAIServer()) as url:
        pass
    async with engine_at(url) as engine:
        with pytest.raises(RemoteUnavailable, match=r"no answer from http://\S+/v1 \(ConnectError\)"):
            await run(engine)
        await engine.check()  # a new replica would find no server either


@pytest.mark.parametrize(
    ("stream_error", "error_type"),
    [
        (None, RemoteUnavailable),
        ({"message": "the engine died", "type": "InternalServerError", "code": 500}, RemoteUnavailable),
        ({"message": "the engine died"}, RemoteUnavailable),
        ({"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}, RemoteBusy),
        ({"message": "no", "type": "invalid_request_error", "code": None}, InvalidCall),
    ],
)
async def test_an_answer_that_breaks_off_fails_and_is_not_retried(stream_error, error_type):
    server = OpenAIServer(breaks_after=3, stream_error=stream_error)
    with serving(server) as url:
        async with engine_at(url) as engine:
            chunks: list[EngineChunk] = []
            with pytest.raises(error_type):
                await gather_into(engine, chunks)
    assert len(text_of(chunks).split()) == 3
    assert all(chunk.finish is None for chunk in chunks)
    assert len(server.bodies) == 1


async def test_closing_a_stream_cancels_the_request_at_the_server():
    server = OpenAIServer(hangs=True)
    with serving(server) as url:
        async with engine_at(url) as engine:
            async with aclosing(engine.generate(EngineRequest("r", MESSAGES))) as chunks:
                while not (await anext(chunks)).text:
                    pass
                assert (server.num_open, engine.stats().num_running) == (1, 1)
            await wait_until(lambda: server.num_open == 0)
            assert engine.stats().num_running == 0


async def test_a_silent_server_times_out():
    with serving(OpenAIServer(hangs=True)) as url:
        async with engine_at(url, read_timeout_s=0.2) as engine:
            with pytest.raises(RemoteUnavailable, match="ReadTimeout"):
                await run(engine)


async def test_closing_the_engine_cancels_all_requests():
    server = OpenAIServer(hangs=True)
    with serving(server) as url:
        async with engine_at(url, max_streams=2) as engine:
            requests = [asyncio.create_task(run(engine)) for _ in range(3)]
            await wait_until(lambda: server.num_open == 2)
            assert (engine.stats().num_running, engine.stats().num_waiting) == (2, 1)
            await engine.close()
            finishes = [(await request)[-1].finish for request in requests]
            with pytest.raises(EngineDead):
                await engine.check()
        await wait_until(lambda: server.num_open == 0)
    assert finishes == [FinishReason.CANCELLED] * 3


async def test_connections_are_reused():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url, max_streams=2) as engine:
            for _ in range(3):
                await run(engine, max_tokens=2)
            assert len(server.clients) == 1
            await asyncio.gather(*(run(engine, max_tokens=2) for _ in range(8)))
    assert len(server.clients) == 2


async def test_an_answer_may_fill_the_servers_context_window():
    server = OpenAIServer(max_model_len=20)
    whole = server.answer(MESSAGES)
    with serving(server) as url:
        async with engine_at(url) as engine:
            chunks = await run(engine, max_tokens=500)
            assert whole.startswith(text_of(chunks))
            assert (num_tokens(chunks), chunks[-1].finish) == (20 - 10, FinishReason.LENGTH)
            with pytest.raises(ContextLengthExceeded, match="maximum context length is 20 tokens"):
                await run(engine, messages=MESSAGES * 3, max_tokens=500)


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "ümlaut", "a\nb"])
def test_a_key_that_is_missing_or_unusable_is_an_error_at_the_start(monkeypatch, value):
    monkeypatch.delenv("CHEM_KEY")
    if value is not None:
        monkeypatch.setenv("CHEM_KEY", value)
    with pytest.raises(RemoteMisconfigured, match="the environment variable CHEM_KEY") as caught:
        OpenAIEngine("chem", OpenAIConfig(url="http://127.0.0.1", model="m", api_key_env="CHEM_KEY"))
    assert not value or not value.strip() or value not in str(caught.value)


async def test_a_remote_model_cannot_be_the_meta():
    async with engine_at("http://127.0.0.1:9/v1") as engine:
        for options in ({"allowed": ("law",)}, {"probe": True}):
            with pytest.raises(InvalidCall, match="cannot hand over"):
                await run(engine, **options)
        with pytest.raises(RemoteMisconfigured, match="cannot be the meta"):
            await engine.install(1, [])


async def test_our_own_router_is_a_server_that_does_not_continue():
    """It does not know the fields, and the test finds that out."""
    words = [f"w{i} " for i in range(30)]
    gateway = FakeGateway(models(meta=within_budget(writes(*words))))
    with served(build_app(gateway)) as url:
        async with engine_at(f"{url}/v1", model="generalist") as engine:
            chunks = await run(engine, max_tokens=4)
            assert (text_of(chunks), num_tokens(chunks)) == ("".join(words[:4]), 4)
            assert (chunks[-1].finish, chunks[-1].num_prompt_tokens) == (FinishReason.LENGTH, 3)
            with pytest.raises(TurnNotContinued):
                await run(engine, written="w0")
            with pytest.raises(InvalidCall, match="top_p"):
                await run(engine, top_p=0.0)


async def test_the_server_is_told_the_trace_of_a_request():
    model = FakeModel(within_budget(writes("a", "b")))
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
    with served(build_app(FakeGateway({"meta": model}))) as url:
        async with engine_at(f"{url}/v1", model="generalist") as engine:
            await run(engine, max_tokens=1, trace_headers=headers)
    assert model.asks[-1].trace_headers == headers
