"""The official `openai` SDK's calls of /v1/responses, against a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from router.dialects.app import build_app
from router.errors import ContextLengthExceeded, ModelFailed, ModelOverloaded, ModelUnavailable, RouterError
from router.model_port import ModelChunk, ModelRequest
from tests.clients.scripts import gateway as scripted
from tests.fakes.models import FakeGateway, Item, Pause, hands_over, models, served, writes

ROMAN, MORSE = "What is 9 as a roman numeral?", "SOS in Morse code?"
TOOLS: list[Any] = [
    {"type": "function", "name": name, "strict": True, "parameters": {"type": "object"}}
    for name in ("to_roman", "to_morse")
]


class Numeral(BaseModel):
    number: int
    numeral: str


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeGateway, str]]:
    gateway = scripted()
    with served(build_app(gateway)) as url:
        yield gateway, f"{url}/v1"


@pytest.fixture
def gateway(server: tuple[FakeGateway, str]) -> Iterator[FakeGateway]:
    gateway, scripts = server[0], server[0].models
    yield gateway
    gateway.models = scripts


@pytest.fixture
def client(server: tuple[FakeGateway, str]) -> Iterator[OpenAI]:
    with OpenAI(base_url=server[1], api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server: tuple[FakeGateway, str]) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server[1], api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def ask(client: OpenAI, question: Any, *, stream: bool, **options: Any) -> Response:
    """The response; the SDK's own helper puts a stream together."""
    if not stream:
        return client.responses.create(model="generalist", input=question, **options)
    with client.responses.stream(model="generalist", input=question, **options) as events:
        return events.get_final_response()


def calls(response: Response) -> list[tuple[str, str]]:
    return [(item.name, item.arguments) for item in response.output if item.type == "function_call"]


def test_an_answer_has_thoughts_text_and_usage(client: OpenAI, stream: bool):
    response = ask(client, ROMAN, stream=stream)
    assert (response.status, response.model, response.output_text) == (
        "completed",
        "generalist",
        "IX\nas the Romans wrote",
    )
    thoughts = response.output[0]
    assert thoughts.type == "reasoning"
    assert [part.text for part in thoughts.content or ()] == ["9 is small"]
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (
        7,
        7,
        14,
    )
    assert response.usage.output_tokens_details.reasoning_tokens == 3


def test_the_text_of_a_stream_comes_in_deltas(client: OpenAI):
    with client.responses.create(model="generalist", input=MORSE, stream=True) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["...", " ---", " ..."]


def test_a_response_repeats_what_was_asked(client: OpenAI, stream: bool):
    options: dict[str, Any] = {
        "instructions": "Be brief.",
        "metadata": {"team": "a"},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 50,
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "truncation": "auto",
        "reasoning": {"effort": "low", "summary": "auto"},
        "tools": TOOLS,
        "tool_choice": "none",
        "store": False,
        "service_tier": "auto",
    }
    response = ask(client, ROMAN, stream=stream, **options)
    repeated = response.model_dump(exclude_none=True, include=set(options))
    assert repeated == {**options, "service_tier": "default"}
    assert response.model_extra is not None
    assert response.model_extra["store"] is False


def test_instructions_come_first(client: OpenAI, gateway: FakeGateway):
    asked: list[ModelRequest] = []

    def script(request: ModelRequest) -> Iterable[Item]:
        asked.append(request)
        return writes("hi")(request)

    gateway.models = models(meta=script)
    ask(
        client,
        [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        stream=False,
    )
    ask(client, "Hi", stream=False, instructions="Be brief.")
    messages = [[(m.role, m.content) for m in request.prompt.messages or ()] for request in asked]
    assert messages == [
        [("system", "Be kind."), ("user", "Hi")],
        [("system", "Be brief."), ("user", "Hi")],
    ]


def test_tools_are_called_in_parallel(client: OpenAI, stream: bool):
    response = ask(client, "9 and 8 as roman numerals?", stream=stream, tools=TOOLS)
    assert calls(response) == [("to_roman", '{"number": 9}'), ("to_roman", '{"number": 8}')]


def test_results_go_back_as_items(client: OpenAI, stream: bool):
    items: list[Any] = [{"role": "user", "content": "9 as a roman numeral, in Morse code?"}]
    for result in ("IX", ".. -..-"):
        response = ask(client, items, stream=stream, tools=TOOLS)
        [call] = [item for item in response.output if item.type == "function_call"]
        items += [item.to_dict() for item in response.output]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    assert ask(client, items, stream=stream, tools=TOOLS).output_text == "IX is .. -..-"


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "to_roman"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "to_roman"}]},
    ],
)
def test_a_tool_can_be_demanded(client: OpenAI, stream: bool, choice: Any):
    [(name, arguments)] = calls(ask(client, ROMAN, stream=stream, tools=TOOLS, tool_choice=choice))
    assert (name, json.loads(arguments)["number"]) == ("to_roman", 9)


def test_a_function_in_a_namespace_keeps_its_name(client: OpenAI, stream: bool):
    tools = [{"type": "namespace", "name": "numerals", "description": "Numerals", "tools": TOOLS}]
    response = ask(client, ROMAN, stream=stream, tools=tools, tool_choice="required")
    [call] = [item for item in response.output if item.type == "function_call"]
    assert (call.namespace, call.name) == ("numerals", "to_roman")


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}},
    ],
)
def test_an_answer_has_the_form_asked_for(client: OpenAI, stream: bool, form: Any):
    response = ask(client, ROMAN, stream=stream, text={"format": form})
    assert json.loads(response.output_text) == {"number": 9, "numeral": "IX"}


def test_an_answer_is_parsed_into_a_model(client: OpenAI):
    response = client.responses.parse(model="generalist", input=ROMAN, text_format=Numeral)
    assert response.output_parsed == Numeral(number=9, numeral="IX")


def test_a_streamed_answer_is_parsed_into_a_model(client: OpenAI):
    with client.responses.stream(model="generalist", input=ROMAN, text_format=Numeral) as events:
        assert events.get_final_response().output_parsed == Numeral(number=9, numeral="IX")


def test_log_probabilities_of_the_text(client: OpenAI, stream: bool):
    include: list[Any] = ["message.output_text.logprobs"]
    response = ask(client, MORSE, stream=stream, include=include, top_logprobs=2)
    [message] = response.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert [(token.token, token.logprob) for token in part.logprobs or ()] == [
        ("...", -0.125),
        (" ---", -0.125),
        (" ...", -0.125),
    ]
    assert [[each.token for each in token.top_logprobs] for token in part.logprobs or ()][0] == ["...", "?"]


def test_an_answer_may_be_cut_off(client: OpenAI):
    response = client.responses.create(model="generalist", input=MORSE, max_output_tokens=2)
    assert (response.status, response.output_text) == ("incomplete", "... ---")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_an_answer_over_a_hand_over_is_one_message(client: OpenAI, gateway: FakeGateway, stream: bool):
    gateway.models = models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X"))
    response = ask(client, ROMAN, stream=stream, extra_body={"routing": {"trace": True}})
    assert (len(response.output), response.output_text) == (1, "It is IX")
    assert response.model_extra is not None
    spans = response.model_extra["routing"]["spans"]
    assert [(span["model"], span["text"]) for span in spans] == [("meta", "It is "), ("roman", "IX")]
    assert set(response.model_extra["usage_by_model"]) == {"meta", "roman"}


def test_the_tokens_of_the_input_are_counted(client: OpenAI):
    counted = client.responses.input_tokens.count(model="generalist/morse", input="SOS please")
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 2)


def test_an_expert_can_be_addressed(client: OpenAI):
    assert client.responses.create(model="generalist/morse", input="SOS").output_text == "... --- ..."


def test_thoughts_can_be_left_out_or_sealed(client: OpenAI, stream: bool):
    hidden = ask(client, ROMAN, stream=stream, extra_body={"include_reasoning": False})
    assert [item.type for item in hidden.output] == ["message"]
    sealed = ask(client, ROMAN, stream=stream, include=["reasoning.encrypted_content"]).output[0]
    assert sealed.type == "reasoning"
    assert sealed.encrypted_content


async def test_an_async_stream(async_client: AsyncOpenAI):
    async with async_client.responses.stream(model="generalist", input=MORSE) as events:
        kinds = [event.type async for event in events]
        assert (await events.get_final_response()).output_text == "... --- ..."
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_a_stream_that_the_client_leaves_is_stopped(async_client: AsyncOpenAI, gateway: FakeGateway):
    gateway.models = models(meta=lambda ask: [ModelChunk("I", num_tokens=1, num_prompt_tokens=3), Pause()])
    async with await async_client.responses.create(model="generalist", input="Hi", stream=True) as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                break
    [meta] = gateway.models.values()
    assert meta.all_closed.wait(timeout=10)


def fails(error: RouterError, *before: str) -> Any:
    words = [ModelChunk(text, num_tokens=1, num_prompt_tokens=3) for text in before]
    return lambda ask: [*words, error]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelOverloaded("every queue is full"), openai.RateLimitError),
        (ContextLengthExceeded("too long", "messages"), openai.BadRequestError),
        (ModelUnavailable("gone"), openai.InternalServerError),
    ],
)
def test_errors_before_the_first_event_raise_the_sdks_exceptions(
    client: OpenAI, gateway: FakeGateway, error: RouterError, kind: type[openai.APIStatusError], stream: bool
):
    gateway.models = models(meta=fails(error))
    with pytest.raises(kind) as raised:
        ask(client, "Hi", stream=stream)
    assert (raised.value.code, raised.value.param) == (error.code, "input" if error.param else None)


def test_a_stream_that_fails_says_so_in_an_event(client: OpenAI, gateway: FakeGateway):
    gateway.models = models(meta=fails(ModelFailed("the engine broke"), "I", " am"))
    with client.responses.create(model="generalist", input="Hi", stream=True) as stream:
        *_, error, last = list(stream)
    assert error.type == "error"
    assert (error.code, error.message) == ("model_failed", "the engine broke")
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.error.code, last.response.output_text) == ("server_error", "I am")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "custom", "name": "apply_patch"}]}, "tools.0.type"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"text": {"verbosity": "low"}}, "text"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, options: Any, param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="generalist", input="Hi", **options)
    assert (refused.value.param, refused.value.code) == (param, "unsupported_parameter")


def test_an_unknown_model_is_not_found(client: OpenAI):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="gpt-4o", input="Hi")
    assert unknown.value.code == "model_not_found"
