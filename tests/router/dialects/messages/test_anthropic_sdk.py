"""The official `anthropic` SDK works against a real server without changes."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message, MessageParam, TextBlock, ThinkingBlock, ToolParam, ToolUseBlock

from router.api.keys import digest_of
from router.api_key import ApiKey
from router.dialects.app import build_app
from router.errors import (
    ContextLengthExceeded,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    RouterError,
)
from router.model_port import Finish, ModelChunk, ModelRequest
from router.parts import Part, ReasoningPart, TextPart, ToolCallPart
from tests.fakes.models import (
    FakeGateway,
    FakeModel,
    Item,
    Pause,
    Script,
    distributes,
    hands_over,
    models,
    served,
    writes,
)

QUESTION: list[MessageParam] = [{"role": "user", "content": "What is 9 in roman numerals?"}]
ASK: dict[str, Any] = {"model": "generalist", "max_tokens": 50, "messages": QUESTION}
WEATHER: ToolParam = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}
KEY = "etr-0123456789abcdefghij"
PROBE, WRITE = distributes(roman=0.9, morse=0.01), hands_over("roman", 0.9, "It is ")


def meta(ask: ModelRequest) -> list[Item]:
    return list((PROBE if ask.probe else WRITE)(ask))


ANSWERS = models(meta=meta, roman=writes("I", "X"), morse=writes("-"))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeGateway, str]]:
    gateway = FakeGateway(ANSWERS)
    with served(build_app(gateway)) as url:
        yield gateway, url


@pytest.fixture
def gateway(server: tuple[FakeGateway, str]) -> Iterator[FakeGateway]:
    table = server[0].table
    yield server[0]
    server[0].models, server[0].table = ANSWERS, table


@pytest.fixture
def client(server: tuple[FakeGateway, str]) -> Iterator[Anthropic]:
    with Anthropic(base_url=server[1], api_key=KEY, max_retries=0) as client:
        yield client


def says(*parts: Part, finish: Finish = Finish.STOP) -> Script:
    """Write the parts, one token each."""

    def script(ask: ModelRequest) -> list[Item]:
        return [
            *(ModelChunk(num_tokens=1, num_prompt_tokens=5, parts=(part,)) for part in parts),
            ModelChunk(finish=finish),
        ]

    return script


def texts(message: Message) -> list[str]:
    assert all(block.type == "text" for block in message.content)
    return [block.text for block in message.content if block.type == "text"]


def test_a_message(client: Anthropic):
    message = client.messages.create(
        **ASK, stop_sequences=["?"], extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 4}
    )
    assert texts(message) == ["It is IX"]
    assert (message.role, message.model, message.type) == ("assistant", "generalist", "message")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 3)
    assert message.id.startswith("msg-")
    assert message._request_id


def test_a_streamed_message_over_a_hand_over(client: Anthropic):
    with client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "It is IX"
        message = stream.get_final_message()
    assert texts(message) == ["It is IX"]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 3)


def test_the_first_event_has_the_tokens_of_the_prompt(client: Anthropic):
    with client.messages.create(**ASK, stream=True) as stream:
        first = next(iter(stream))
    assert first.type == "message_start"
    assert (first.message.usage.input_tokens, first.message.usage.output_tokens) == (3, 0)
    assert (first.message.content, first.message.stop_reason) == ([], None)


async def test_an_async_stream(server: tuple[FakeGateway, str]):
    async with (
        AsyncAnthropic(base_url=server[1], api_key=KEY, max_retries=0) as client,
        client.messages.stream(**ASK) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == "It is IX"


def test_the_limit_of_tokens_and_a_stop_sequence_end_a_message(client: Anthropic):
    short = client.messages.create(**{**ASK, "max_tokens": 1})
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 1)
    with client.messages.stream(**ASK, stop_sequences=["sI", " I"]) as stream:
        streamed = stream.get_final_message()
    for cut in (client.messages.create(**ASK, stop_sequences=["sI", " I"]), streamed):
        assert texts(cut) == ["It is"]
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", " I")


def test_the_trace_is_an_extra_field(client: Anthropic):
    traced = {**ASK, "extra_body": {"routing": {"trace": True}}}
    message = client.messages.create(**traced)
    assert message.model_extra is not None
    assert [span["model"] for span in message.model_extra["routing"]["spans"]] == ["meta", "roman"]
    with client.messages.create(**traced, stream=True) as stream:
        events = list(stream)
    authors = [
        (event.model_extra or {})["routing"]["model"]
        for event in events
        if event.type == "content_block_delta"
    ]
    assert authors == ["meta", "roman", "roman"]
    [end] = [event for event in events if event.type == "message_delta"]
    assert (end.model_extra or {})["routing"]["spans"][1]["text"] == "IX"


CALLS = (
    ReasoningPart("Two places."),
    TextPart("I will look."),
    ToolCallPart(0, "weather", '{"place"'),
    ToolCallPart(0, None, ': "Rome"}'),
    ToolCallPart(1, "weather"),
    ToolCallPart(1, None, '{"place": "Oslo"}'),
)


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_text_and_parallel_calls_are_blocks(client: Anthropic, gateway: FakeGateway, streamed: bool):
    gateway.models = models(meta=says(*CALLS))
    fields = {**ASK, "tools": [WEATHER], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    if streamed:
        with client.messages.stream(**fields) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**fields)
    thinking, text, *calls = message.content
    assert thinking == ThinkingBlock(type="thinking", thinking="Two places.", signature="")
    assert isinstance(text, TextBlock)
    assert text.text == "I will look."
    assert all(isinstance(call, ToolUseBlock) for call in calls)
    assert [(call.name, call.input) for call in calls if isinstance(call, ToolUseBlock)] == [
        ("weather", {"place": "Rome"}),
        ("weather", {"place": "Oslo"}),
    ]
    assert message.stop_reason == "tool_use"


def test_the_loop_of_calls_and_results_comes_back_to_the_model_that_called(
    client: Anthropic, gateway: FakeGateway
):
    call, answer = says(ToolCallPart(0, "weather", '{"place": "Rome"}')), writes("Sunny.")
    roman = FakeModel(lambda ask: (answer if _last(ask).role == "tool" else call)(ask))
    gateway.models = {**models(meta=hands_over("roman"), morse=writes("-")), "roman": roman}
    first = client.messages.create(**ASK, tools=[WEATHER])
    [block] = first.content
    assert isinstance(block, ToolUseBlock)
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "18 °C"}]}
    ]
    history: list[MessageParam] = [*QUESTION, first.to_param(), {"role": "user", "content": results}]
    second = client.messages.create(**{**ASK, "messages": history}, tools=[WEATHER])
    assert texts(second) == ["Sunny."]
    asked = roman.asks[-1].prompt.messages or ()
    assert [message.role for message in asked] == ["user", "assistant", "tool"]
    assert [(c.id, c.name, c.arguments) for c in asked[1].tool_calls] == [
        (block.id, "weather", '{"place": "Rome"}')
    ]
    assert (asked[2].tool_call_id, asked[2].content) == (block.id, "18 °C")


def _last(ask: ModelRequest) -> Any:
    return (ask.prompt.messages or ())[-1]


def test_the_beta_client_works(client: Anthropic):
    message = client.beta.messages.create(
        **ASK,
        betas=["fine-grained-tool-streaming-2025-05-14", "context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )
    assert message.content[0].type == "text"


def test_tokens_are_counted(client: Anthropic, gateway: FakeGateway):
    count = client.messages.count_tokens(
        model="generalist", messages=QUESTION, system="Be brief.", tools=[WEATHER]
    )
    assert count.input_tokens == 3
    assert ANSWERS["meta"].asks[-1].probe
    assert client.messages.count_tokens(model="generalist/roman", messages=QUESTION).input_tokens == 3


def fails(error: RouterError, *before: str) -> Script:
    def script(ask: ModelRequest) -> list[Item]:
        return [*(ModelChunk(text, num_tokens=1, num_prompt_tokens=3) for text in before), error]

    return script


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (ModelOverloaded("every queue is full"), anthropic.RateLimitError, "overloaded_error"),
        (
            ContextLengthExceeded("9 tokens > 8", "messages"),
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        (ModelUnavailable("gone"), anthropic.InternalServerError, "overloaded_error"),
        (ModelFailed("the engine broke"), anthropic.InternalServerError, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_raise_the_sdks_exceptions(
    client: Anthropic,
    gateway: FakeGateway,
    error: RouterError,
    kind: type[anthropic.APIStatusError],
    name: str,
    stream: bool,
):
    gateway.models = models(meta=fails(error))
    with pytest.raises(kind) as raised:
        client.messages.create(**ASK, stream=stream)
    assert raised.value.status_code == error.status
    is_too_long = isinstance(error, ContextLengthExceeded)
    assert_enveloped(raised.value, name, f"prompt is too long: {error}" if is_too_long else error.message)


def assert_enveloped(raised: anthropic.APIStatusError, name: str, message: str) -> None:
    assert raised.request_id
    assert raised.body == {
        "type": "error",
        "error": {"type": name, "message": message},
        "request_id": raised.request_id,
    }


def test_invalid_requests_raise_the_sdks_exceptions(client: Anthropic):
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(**{**ASK, "model": "claude-opus-4-1"})
    assert_enveloped(unknown.value, "not_found_error", unknown.value.body["error"]["message"])  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="container is not supported"):
        client.messages.create(**ASK, extra_body={"container": {"id": "c"}})
    with pytest.raises(anthropic.NotFoundError, match="Not Found"):
        client.post("/v1/messages/batches", cast_to=object, body={})


def test_a_key_may_stand_in_x_api_key_or_in_authorization(
    server: tuple[FakeGateway, str], gateway: FakeGateway, client: Anthropic
):
    alice = ApiKey(name="alice", sha256=digest_of(KEY))
    gateway.table = gateway.table.model_copy(update={"keys": (alice,)})
    assert texts(client.messages.create(**ASK)) == ["It is IX"]
    with Anthropic(base_url=server[1], auth_token=KEY, max_retries=0) as other:
        assert texts(other.messages.create(**ASK)) == ["It is IX"]
    with (
        Anthropic(base_url=server[1], api_key="wrong", max_retries=0) as other,
        pytest.raises(anthropic.AuthenticationError, match="unknown or revoked API key") as raised,
    ):
        other.messages.create(**ASK)
    assert raised.value.type == "authentication_error"


def test_the_limits_of_a_key_and_of_a_body_have_types_of_their_own(client: Anthropic, gateway: FakeGateway):
    hasty = ApiKey(name="hasty", sha256=digest_of(KEY), requests_per_minute=1)
    with pytest.raises(anthropic.RequestTooLargeError, match="request_too_large"):
        client.messages.create(**ASK, system="a" * gateway.max_body_bytes)
    gateway.table = gateway.table.model_copy(update={"keys": (hasty,)})
    assert texts(client.messages.create(**ASK)) == ["It is IX"]
    with pytest.raises(anthropic.RateLimitError, match="1 requests per minute") as limited:
        client.messages.create(**ASK)
    assert limited.value.type == "rate_limit_error"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60


def test_the_models_are_listed(client: Anthropic):
    names = [model.id for model in client.models.list()]
    assert names == ["generalist", "generalist/meta", "generalist/roman", "generalist/morse"]


def test_a_stream_that_fails_raises_after_the_text_so_far(client: Anthropic, gateway: FakeGateway):
    gateway.models = models(meta=fails(ModelFailed("the engine broke"), "I", " am"))
    got: list[str] = []

    def read() -> None:
        with client.messages.stream(**ASK) as stream:
            got.extend(stream.text_stream)

    with pytest.raises(anthropic.APIStatusError, match="the engine broke") as raised:
        read()
    assert got == ["I", " am"]
    assert_enveloped(raised.value, "api_error", "the engine broke")


def test_a_client_that_leaves_ends_the_answer(client: Anthropic, gateway: FakeGateway):
    fakes = models(meta=lambda ask: [ModelChunk("I", num_tokens=1, num_prompt_tokens=3), Pause()])
    gateway.models = fakes
    with client.messages.stream(**ASK) as stream:
        assert next(iter(stream.text_stream)) == "I"
        assert fakes["meta"].num_open == 1
    assert fakes["meta"].all_closed.wait(10)


def test_a_silent_stream_has_pings(gateway: FakeGateway, server: tuple[FakeGateway, str], client: Anthropic):
    gateway.table = gateway.table.model_copy(update={"heartbeat_s": 0.02})
    gateway.models = models(meta=lambda ask: [Pause(0.1), *writes("Hi")(ask)])
    with client.messages.with_streaming_response.create(**ASK, stream=True) as raw:
        text = raw.read().decode()
    assert 'event: ping\ndata: {"type":"ping"}\n\n' in text
    assert text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    with client.messages.stream(**ASK) as stream:
        assert stream.get_final_text() == "Hi"
