"""The official `openai` SDK reads thoughts, tool calls, structured outputs and log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import BaseModel

from router.dialects.app import build_app
from tests.clients.scripts import gateway
from tests.fakes.models import served

ROMAN, MORSE = "What is 9 as a roman numeral?", "SOS in Morse code?"
TOOLS = [
    {"type": "function", "function": {"name": name, "strict": True, "parameters": {"type": "object"}}}
    for name in ("to_roman", "to_morse")
]
CALLS = [("to_roman", '{"number": 9}'), ("to_roman", '{"number": 8}')]


class Numeral(BaseModel):
    number: int
    numeral: str


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with served(build_app(gateway())) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        yield client


def ask(client: OpenAI, question: str, *, stream: bool, **options: Any) -> ChatCompletion:
    """The answer; the SDK's own helper puts a stream together."""
    messages: Any = [{"role": "user", "content": question}, *options.pop("further", ())]
    if not stream:
        return client.chat.completions.create(model="generalist", messages=messages, **options)
    with client.chat.completions.stream(model="generalist", messages=messages, **options) as events:
        return events.get_final_completion()


def called(message: ChatCompletionMessage) -> list[tuple[str, str]]:
    """The names and arguments of the tool calls."""
    return [
        (call.function.name, call.function.arguments)
        for call in message.tool_calls or ()
        if call.type == "function"
    ]


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_thoughts_stand_beside_the_answer(client: OpenAI, stream: bool):
    message = ask(client, ROMAN, stream=stream).choices[0].message
    assert message.content == "IX\nas the Romans wrote"
    assert message.model_extra is not None
    assert message.model_extra["reasoning"] == "9 is small"


def test_tools_are_called(client: OpenAI, stream: bool):
    [choice] = ask(client, "9 and 8 as roman numerals?", stream=stream, tools=TOOLS).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content in (None, "")
    assert called(choice.message) == CALLS


def test_results_go_back_in_the_history(client: OpenAI, stream: bool):
    question = "9 as a roman numeral, in Morse code?"
    further: list[Any] = []
    for result in ("IX", ".. -..-"):
        [choice] = ask(client, question, stream=stream, tools=TOOLS, further=further).choices
        [call] = choice.message.tool_calls or []
        assert call.id.startswith("call_roman_")
        message = choice.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
        further += [message, {"role": "tool", "tool_call_id": call.id, "content": result}]
    [choice] = ask(client, question, stream=stream, tools=TOOLS, further=further).choices
    assert (choice.message.content, choice.finish_reason) == ("IX is .. -..-", "stop")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "to_roman"}}])
def test_a_tool_can_be_demanded(client: OpenAI, stream: bool, choice: Any):
    answer = ask(client, ROMAN, stream=stream, tools=TOOLS, tool_choice=choice)
    [(name, arguments)] = called(answer.choices[0].message)
    assert name == "to_roman"
    assert json.loads(arguments)["number"] == 9


def test_no_tool_is_called_if_none_may_be(client: OpenAI, stream: bool):
    message = ask(client, ROMAN, stream=stream, tools=TOOLS, tool_choice="none").choices[0].message
    assert not message.tool_calls
    assert message.content == "IX\nas the Romans wrote"


def test_functions_are_called_as_in_the_first_api(client: OpenAI):
    options: dict[str, Any] = {"functions": [tool["function"] for tool in TOOLS]}
    [choice] = ask(client, ROMAN, stream=False, **options).choices
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    assert (choice.message.function_call.name, choice.message.function_call.arguments) == CALLS[0]


@pytest.mark.parametrize(
    "form", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}]
)
def test_an_answer_has_the_form_asked_for(client: OpenAI, stream: bool, form: Any):
    answer = ask(client, ROMAN, stream=stream, response_format=form)
    assert json.loads(answer.choices[0].message.content or "") == {"number": 9, "numeral": "IX"}


def test_an_answer_is_parsed_into_a_model(client: OpenAI):
    answer = client.chat.completions.parse(
        model="generalist", messages=[{"role": "user", "content": ROMAN}], response_format=Numeral
    )
    assert answer.choices[0].message.parsed == Numeral(number=9, numeral="IX")


def test_a_streamed_answer_is_parsed_into_a_model(client: OpenAI):
    with client.chat.completions.stream(
        model="generalist", messages=[{"role": "user", "content": ROMAN}], response_format=Numeral
    ) as events:
        assert events.get_final_completion().choices[0].message.parsed == Numeral(number=9, numeral="IX")


def test_log_probabilities_of_a_chat_answer(client: OpenAI, stream: bool):
    answer = ask(client, MORSE, stream=stream, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    tokens = [(token.token, bytes(token.bytes or ()), token.logprob) for token in logprobs.content or ()]
    assert tokens == [("...", b"...", -0.125), (" ---", b" ---", -0.125), (" ...", b" ...", -0.125)]
    tops = [[each.token for each in token.top_logprobs] for token in logprobs.content or ()]
    assert tops == [["...", "?"], [" ---", "?"], [" ...", "?"]]


def test_log_probabilities_of_an_echoed_prompt(client: OpenAI):
    prompt = "The capital of France is"
    answer = client.completions.create(
        model="generalist", prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    [choice] = answer.choices
    assert choice.text == f"{prompt} Paris"
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or ()) == choice.text
    assert choice.logprobs.token_logprobs == [None, *[-0.125] * (len(choice.logprobs.tokens or ()) - 1)]
    tokens, offsets = choice.logprobs.tokens or (), choice.logprobs.text_offset or ()
    assert [
        choice.text[start : start + len(token)] for start, token in zip(offsets, tokens, strict=True)
    ] == tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_an_echoed_prompt_is_followed_by_one_token_though_the_turn_ends(client: OpenAI, streamed: bool):
    """Evaluation harnesses leave out the last token, which else would be one of the prompt."""
    prompt = "The capital of France is Paris"
    options: dict[str, Any] = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1}
    answer: Any = client.completions.create(model="generalist", stream=streamed, **options)
    choices = [chunk.choices[0] for chunk in (answer if streamed else [answer])]
    logprobs = [choice.logprobs for choice in choices if choice.logprobs]
    *tokens, end = [token for each in logprobs for token in each.tokens or ()]
    assert ("".join(tokens), end) == (prompt, "")
    assert [offset for each in logprobs for offset in each.text_offset or ()][-1] == len(prompt)


def test_log_probabilities_of_a_streamed_completion(client: OpenAI):
    with client.completions.create(
        model="generalist/morse", prompt="SOS", echo=True, logprobs=0, stream=True
    ) as chunks:
        choices = [chunk.choices[0] for chunk in chunks]
    assert "".join(choice.text for choice in choices) == "SOS... --- ..."
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.tokens or ()]
    assert "".join(tokens) == "SOS... --- ..."


def test_options_of_vllm_go_through_the_extra_body(client: OpenAI):
    answer = client.completions.create(
        model="generalist",
        prompt="a",
        max_tokens=9,
        extra_body={"ignore_eos": True, "min_tokens": 9, "top_k": -1},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9
    assert answer.choices[0].finish_reason == "length"
