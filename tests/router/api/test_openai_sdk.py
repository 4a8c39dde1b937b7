"""The official `openai` SDK works against a real server without changes."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from router.dialects.app import build_app
from router.errors import ContextLengthExceeded, ModelFailed, ModelOverloaded, ModelUnavailable, RouterError
from router.model_port import ModelChunk, ModelRequest
from tests.fakes.models import FakeGateway, Script, hands_over, models, served, writes

QUESTION = "What is 9 in roman numerals?"
ANSWERS = models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X"))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeGateway, str]]:
    gateway = FakeGateway(ANSWERS)
    with served(build_app(gateway)) as url:
        yield gateway, url


@pytest.fixture
def gateway(server: tuple[FakeGateway, str]) -> Iterator[FakeGateway]:
    yield server[0]
    server[0].models = ANSWERS


@pytest.fixture
def client(server: tuple[FakeGateway, str]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server[1]}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server: tuple[FakeGateway, str]) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server[1]}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_answer(client: OpenAI):
    answer = client.chat.completions.create(
        model="generalist", messages=[{"role": "user", "content": QUESTION}], n=2, stop=["?"], seed=1
    )
    assert [choice.message.content for choice in answer.choices] == ["It is IX"] * 2
    assert {choice.message.role for choice in answer.choices} == {"assistant"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6)
    assert answer.system_fingerprint == "table-7"
    assert answer._request_id


def test_a_streamed_chat_answer_with_usage(client: OpenAI):
    with client.chat.completions.create(
        model="generalist",
        messages=[{"role": "user", "content": QUESTION}],
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        *chunks, last = list(stream)
    for index in range(2):
        deltas = [c.choices[0].delta for c in chunks if c.choices[0].index == index]
        assert "".join(delta.content or "" for delta in deltas) == "It is IX"
        assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 9


def test_the_streaming_helper_rebuilds_the_answer(client: OpenAI):
    with client.chat.completions.stream(
        model="generalist", messages=[{"role": "user", "content": QUESTION}]
    ) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == "It is IX"


def test_the_trace_is_an_extra_field(client: OpenAI):
    answer = client.chat.completions.create(
        model="generalist",
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"routing": {"trace": True}},
    )
    assert answer.choices[0].model_extra is not None
    spans = answer.choices[0].model_extra["routing"]["spans"]
    assert "".join(span["text"] for span in spans) == answer.choices[0].message.content


def test_text_completions(client: OpenAI):
    whole = client.completions.create(model="generalist/roman", prompt=["a", "b"])
    assert [choice.text for choice in whole.choices] == ["IX", "IX"]
    with client.completions.create(model="generalist/roman", prompt="a", stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == "IX"


def test_models(client: OpenAI):
    names = [model.id for model in client.models.list()]
    assert names == ["generalist", "generalist/meta", "generalist/roman", "generalist/morse"]
    assert client.models.retrieve("generalist/roman").id == "generalist/roman"


async def test_an_async_answer(async_client: AsyncOpenAI):
    answer = await async_client.chat.completions.create(
        model="generalist", messages=[{"role": "user", "content": QUESTION}]
    )
    assert answer.choices[0].message.content == "It is IX"


async def test_an_async_stream(async_client: AsyncOpenAI):
    async with await async_client.chat.completions.create(
        model="generalist", messages=[{"role": "user", "content": QUESTION}], stream=True
    ) as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is IX"
    assert chunks[-1].choices[0].finish_reason == "stop"


def fails(error: RouterError, *before: str) -> Script:
    def script(ask: ModelRequest) -> list[ModelChunk | RouterError]:
        return [*(ModelChunk(text, num_tokens=1, num_prompt_tokens=3) for text in before), error]

    return script


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ModelOverloaded("every queue is full"), openai.RateLimitError, "overloaded"),
        (ContextLengthExceeded("too long", "messages"), openai.BadRequestError, "context_length_exceeded"),
        (ModelUnavailable("gone"), openai.InternalServerError, "model_unavailable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_raise_the_sdks_exceptions(
    client: OpenAI,
    gateway: FakeGateway,
    error: RouterError,
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
):
    gateway.models = models(meta=fails(error))
    with pytest.raises(kind) as raised:
        client.chat.completions.create(
            model="generalist", messages=[{"role": "user", "content": QUESTION}], stream=stream
        )
    assert (raised.value.code, raised.value.param) == (code, error.param)
    assert raised.value.request_id


async def test_invalid_requests_raise_the_sdks_exceptions(async_client: AsyncOpenAI):
    with pytest.raises(openai.NotFoundError) as unknown:
        await async_client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": QUESTION}]
        )
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        await async_client.chat.completions.create(
            model="generalist", messages=[{"role": "user", "content": QUESTION}], store=True
        )
    assert (refused.value.param, refused.value.code) == ("store", "unsupported_parameter")


def test_the_sdk_retries_after_an_overload(server: tuple[FakeGateway, str], gateway: FakeGateway):
    num_asks = 0

    def full_once(ask: ModelRequest) -> list[ModelChunk | RouterError]:
        nonlocal num_asks
        num_asks += 1
        return [ModelOverloaded("full")] if num_asks == 1 else list(writes("hi")(ask))  # type: ignore[arg-type]

    gateway.models = models(meta=full_once)
    with OpenAI(base_url=f"{server[1]}/v1", api_key="none", max_retries=1) as client:
        answer = client.chat.completions.create(
            model="generalist", messages=[{"role": "user", "content": QUESTION}]
        )
    assert answer.choices[0].message.content == "hi"
    assert num_asks == 2


def test_a_stream_that_fails_raises_after_the_text_so_far(client: OpenAI, gateway: FakeGateway):
    gateway.models = models(meta=fails(ModelFailed("the engine broke"), "I", " am"))
    got: list[str | None] = []

    def read() -> None:
        with client.chat.completions.create(
            model="generalist", messages=[{"role": "user", "content": QUESTION}], stream=True
        ) as stream:
            got.extend(chunk.choices[0].delta.content for chunk in stream)

    with pytest.raises(openai.APIError, match="the engine broke"):
        read()
    assert got == ["I", " am"]
