"""What a client gets of thoughts, tool calls and log-probabilities, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from router.decoding.transcript import new_call_id
from router.dialects.app import build_app
from router.model_port import Finish, ModelChunk, ModelRequest
from router.parts import Alternative, ReasoningPart, TextPart, TokenLogprobs, ToolCallPart
from tests.fakes.models import STOP, FakeGateway, FakeModel, hands_over, models, writes

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CHUNKS = (
    ModelChunk("<think>hm</think>", 1, num_prompt_tokens=3, parts=(ReasoningPart("hm"),)),
    ModelChunk("It is ", 1, parts=(TextPart("It is "),)),
    ModelChunk("<call>", 1, parts=(ToolCallPart(0, "weather", '{"city":'),)),
    ModelChunk("<call>", 1, parts=(ToolCallPart(0, arguments='"Rome"}'), ToolCallPart(1, "weather", "{}"))),
    STOP,
)
LOGPROBS = (
    TokenLogprobs("a", b"a", -0.5, (Alternative("a", b"a", -0.5, 7), Alternative("b", b"b", -1.5, 8)), 7),
    TokenLogprobs("\ufffd", b"\xc3", -0.25, (), 9),
)


def gateway(*chunks: ModelChunk) -> FakeGateway:
    def script(ask: ModelRequest) -> Sequence[ModelChunk]:
        return chunks

    return FakeGateway({**models(meta=hands_over("roman"), morse=writes("-")), "roman": FakeModel(script)})


async def post(to: FakeGateway, path: str = CHAT, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "q"}], **fields}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(to)), base_url="http://r") as http:
        return await http.post(path, json=body)


async def whole(to: FakeGateway, path: str = CHAT, **fields: Any) -> dict[str, Any]:
    response = await post(to, path, **fields)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    return dict(choice)


async def events(to: FakeGateway, path: str = CHAT, **fields: Any) -> list[dict[str, Any]]:
    response = await post(to, path, stream=True, **fields)
    assert response.status_code == 200, response.text
    *lines, done = response.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]


async def test_a_whole_message_has_its_thoughts_and_calls():
    choice = await whole(gateway(*CHUNKS), tools=[WEATHER])
    message = choice["message"]
    assert (message["content"], message["reasoning"]) == ("It is ", "hm")
    calls = [
        (call["type"], call["function"]["name"], call["function"]["arguments"])
        for call in message["tool_calls"]
    ]
    assert calls == [("function", "weather", '{"city":"Rome"}'), ("function", "weather", "{}")]
    assert choice["finish_reason"] == "tool_calls"


async def test_a_message_of_calls_alone_has_no_content():
    choice = await whole(gateway(*CHUNKS[2:]), tools=[WEATHER])
    assert choice["message"]["content"] is None


async def test_the_stream_holds_what_the_whole_message_does():
    choices = await events(gateway(*CHUNKS), tools=[WEATHER])
    deltas = [choice["delta"] for choice in choices]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "hm"
    assert "".join(delta.get("content", "") for delta in deltas) == "It is "
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", [])]
    assert [piece["index"] for piece in pieces] == [0, 0, 1]
    assert [piece["function"]["arguments"] for piece in pieces] == ['{"city":', '"Rome"}', "{}"]
    assert [piece["id"].startswith("call_roman_") for piece in pieces if "id" in piece] == [True, True]


def history(author: str) -> list[dict[str, Any]]:
    call = {"id": new_call_id(author), "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    return [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]


async def test_a_result_goes_back_to_the_model_that_made_the_call():
    cluster = gateway(ModelChunk("sunny", 1), STOP)
    choice = await whole(cluster, messages=history("roman"), tools=[WEATHER], routing={"trace": True})
    assert [span["model"] for span in choice["routing"]["spans"]] == ["roman"]
    [ask] = cluster.models["roman"].asks  # type: ignore[attr-defined]
    assert [message.role for message in ask.prompt.messages] == ["user", "assistant", "tool"]
    assert ask.prompt.messages[1].tool_calls[0].name == "weather"


@pytest.mark.parametrize(
    ("author", "routing"),
    [("nobody", {}), ("roman", {"exclude": ["roman"]}), ("roman", {"experts": ["morse"]})],
)
async def test_a_result_for_a_model_out_of_reach_is_routed_like_any_request(
    author: str, routing: dict[str, Any]
):
    cluster = gateway(ModelChunk("sunny", 1), STOP)
    await whole(cluster, messages=history(author), tools=[WEATHER], routing=routing)
    assert len(cluster.models["meta"].asks) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("author", "decision", "word_probability"), [("roman", "roman", 0.0), ("meta", None, 1.0)]
)
async def test_the_route_of_a_result_is_known_without_asking_a_model(author, decision, word_probability):
    """Regression: it was asked of the expert, which decides nothing."""
    cluster = gateway(STOP)
    response = await post(cluster, "/v1/route", messages=history(author))
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["decision"], body["word_probability"]) == (decision, word_probability)
    assert not cluster.models["roman"].asks  # type: ignore[attr-defined]
    assert not cluster.models["meta"].asks  # type: ignore[attr-defined]


async def test_a_result_for_the_meta_stays_with_the_meta():
    choice = await whole(gateway(STOP), messages=history("meta"), tools=[WEATHER])
    assert choice["message"]["content"] == "I do not know."


async def test_a_chat_has_the_log_probabilities_of_each_token():
    chunk = ModelChunk("aé", 2, logprobs=LOGPROBS)
    logprobs = (await whole(gateway(chunk, STOP), logprobs=True, top_logprobs=2))["logprobs"]
    first, second = logprobs["content"]
    assert [each["token"] for each in first["top_logprobs"]] == ["a", "b"]
    assert (second["token"], second["bytes"], second["logprob"]) == ("\ufffd", [0xC3], -0.25)
    streamed = await events(gateway(chunk, STOP), logprobs=True, top_logprobs=2)
    assert [entry for choice in streamed for entry in (choice["logprobs"] or {}).get("content", [])] == [
        first,
        second,
    ]


async def test_an_echoed_prompt_comes_first_with_its_log_probabilities():
    prompt = (TokenLogprobs("q", b"q", None), TokenLogprobs("?", b"?", -2.0))
    chunk = ModelChunk("aé", 2, logprobs=LOGPROBS, prompt_logprobs=prompt, num_prompt_tokens=2)
    asked = {"model": "generalist/roman", "prompt": "q?", "echo": True, "logprobs": 2}
    choice = await whole(gateway(chunk, STOP), TEXT, **asked)
    assert choice["text"] == "q?aé"
    assert choice["logprobs"]["token_logprobs"] == [None, -2.0, -0.5, -0.25]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]
    streamed = await events(gateway(chunk, STOP), TEXT, **asked)
    assert "".join(each["text"] for each in streamed) == "q?aé"
    offsets = [offset for each in streamed for offset in (each["logprobs"] or {}).get("text_offset", [])]
    assert offsets == [0, 1, 2, 3]


async def test_thoughts_that_a_client_does_not_want_are_left_out():
    choice = await whole(gateway(*CHUNKS[:2], STOP), include_reasoning=False)
    assert choice["message"] == {"role": "assistant", "content": "It is ", "refusal": None}
    [first, *others] = await events(gateway(*CHUNKS[:2], STOP), include_reasoning=False)
    assert first["delta"] == {"role": "assistant", "content": "It is "}
    assert not any("reasoning" in each["delta"] for each in others)


async def test_a_prompt_is_scored_without_an_answer():
    scored = ModelChunk("a", 1, num_prompt_tokens=2, prompt_logprobs=LOGPROBS, logprobs=LOGPROBS[:1])
    end = ModelChunk(finish=Finish.LENGTH)
    asked = {"model": "generalist/roman", "prompt": "q?", "echo": True, "logprobs": 2, "max_tokens": 0}
    cluster = gateway(scored, end)
    choice = await whole(cluster, TEXT, **asked)
    assert (choice["text"], choice["logprobs"]["tokens"]) == ("q?", ["a", "\ufffd"])
    assert choice["finish_reason"] == "length"
    [ask] = cluster.models["roman"].asks  # type: ignore[attr-defined]
    assert ask.max_tokens == 1
    streamed = await events(gateway(scored, end), TEXT, **asked)
    assert "".join(each["text"] for each in streamed) == "q?"
    response = await post(gateway(scored, end), TEXT, **asked)
    usage = response.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 0, 2)
    chat = await whole(gateway(scored, end), model="generalist/roman", prompt_logprobs=0, max_tokens=0)
    assert (chat["message"]["content"], len(chat["prompt_logprobs"])) == ("", 2)
    refused = await post(gateway(scored, end), TEXT, **asked | {"echo": False})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")


async def test_every_event_has_the_usage_so_far_if_a_client_wants_it():
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = await post(gateway(*CHUNKS[:2], STOP), stream=True, stream_options=options)
    *lines, done = response.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    usages = [json.loads(line.removeprefix("data: "))["usage"] for line in lines]
    assert [usage["completion_tokens"] for usage in usages] == [1, 2, 2, 2]
    assert {usage["prompt_tokens"] for usage in usages} == {3}
