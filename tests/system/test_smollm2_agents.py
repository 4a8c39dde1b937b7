"""Requests of coding agents, sent by the official SDKs in two dialects to a real language model.

tests/router/dialects has the same shapes with models that play a script.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from router.prompt import Message
from tests.router.dialects.messages.test_agents import REQUEST
from tests.router.dialects.responses.test_agents import CODEX
from tests.support.engine_model import Call
from tests.support.smollm2_agents import (
    ALWAYS,
    CALL_TOKENS,
    EPHEMERAL,
    MAX_TOKENS,
    NAMES,
    PICTURES,
    QUESTION,
    WITH_PATH,
    World,
    agents_world,
    claude,
    codex,
)

pytestmark = [
    pytest.mark.models,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(1800),  # with the download and the conversion of the model
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(smollm2: Path) -> AsyncIterator[World]:
    async with agents_world(smollm2) as world:
        yield world


def read_by(call: Call) -> list[Message]:
    """The messages of the call, without the field that no model gets."""
    return [
        replace(each, tool_call_id=None) if each.role == "user" else each
        for each in call.request.prompt.messages or ()
    ]


async def test_both_dialects_give_the_model_the_same_conversation(world: World):
    answers = [(await world.claude(), world.last_call), (await world.codex(), world.last_call)]
    (message, first), (response, second) = answers
    assert read_by(first) == read_by(second)
    assert [each.role for each in first.request.prompt.messages or ()] == [
        "system", "user", "assistant", "tool", "tool", "user",
    ]  # fmt: skip
    assert [message.content[-1].text, response.output_text] == [first.text, second.text]
    assert all(call.text for _, call in answers)
    for answer, call in answers:
        assert num_read(answer.usage) == prompt_length(call)
        assert num_read(answer.usage) > 1000
    assert (message.stop_reason == "max_tokens") == (len(first.ids) == MAX_TOKENS)
    assert (response.status == "incomplete") == (len(second.ids) == MAX_TOKENS)


def num_read(usage: Any) -> int:
    """Anthropic's `input_tokens` leaves out what the prefix cache had; OpenAI's does not."""
    return int(usage.input_tokens + (getattr(usage, "cache_read_input_tokens", None) or 0))


def prompt_length(call: Call) -> int | None:
    return next(chunk.num_prompt_tokens for chunk in call.chunks if chunk.num_prompt_tokens)


async def test_a_forced_call_is_one_of_the_thirty_tools_and_its_result_is_read(world: World):
    """`tool_choice` by the names of each API; the result goes back in another request."""
    message = await world.claude(
        max_tokens=CALL_TOKENS, tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert call.name in NAMES
    assert call.input in ([{"path": "/a"}, {"path": "/b"}] if call.name in WITH_PATH else [{}])
    assert message.stop_reason == "tool_use"
    named = {"type": "function", "name": "read_29"}
    response = await world.codex(max_output_tokens=CALL_TOKENS, tool_choice=named)
    [asked] = response.output
    assert (asked.name, json.loads(asked.arguments)["path"] in ("/a", "/b")) == ("read_29", True)
    result = {"type": "function_call_output", "call_id": asked.call_id, "output": "30 lines"}
    history = [*codex()["input"], asked.model_dump(exclude={"id", "status"}, exclude_none=True), result]
    assert (await world.codex(input=history)).output_text
    assert [each.role for each in world.last_call.request.prompt.messages or ()][-2:] == ["assistant", "tool"]


async def test_a_hand_over_reaches_the_expert_in_both_dialects(world: World):
    message = await world.claude(extra_body=ALWAYS)
    assert world.last_call.writer == "chef"
    response = await world.codex(extra_body={"routing": {**ALWAYS["routing"], "trace": True}})
    assert world.last_call.writer == "chef"
    assert [span["model"] for span in response.model_dump()["routing"]["spans"]] == ["chef"]
    assert message.content[-1].text == response.output_text


async def test_an_aborted_stream_ends_in_the_engine(world: World):
    while not world.ended.empty():
        world.ended.get_nowait()
    async with world.anthropic.beta.messages.stream(**{**claude(), "max_tokens": 1000}) as events:
        async for event in events:
            if event.type == "content_block_delta":
                break
    stream = await world.openai.responses.create(**{**codex(), "max_output_tokens": 1000})
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    aborted = {await asyncio.wait_for(world.ended.get(), 60) for _ in range(2)}
    assert [world.calls[each][-1].chunks[-1].finish for each in aborted] == [None, None]


async def test_the_tokens_of_a_request_are_counted_as_the_answer_counts_them(world: World):
    body = {name: claude()[name] for name in ("model", "system", "tools", "messages", "betas")}
    counted = await world.anthropic.beta.messages.count_tokens(**body)
    assert counted.input_tokens == num_read((await world.claude()).usage)


async def test_two_pictures_reach_the_model_that_sees_and_the_real_meta_only_chooses(world: World):
    images = [{"type": "input_image", "image_url": url, "detail": "auto"} for url in PICTURES]
    text = {"type": "input_text", "text": QUESTION}
    asked = {"type": "message", "role": "user", "content": [*images, text]}
    response = await world.codex(input=[asked], tools=[])
    sources = [dict(zip(("media_type", "data"), split(url), strict=True)) for url in PICTURES]
    blocks = [{"type": "image", "source": {"type": "base64", **source}, **EPHEMERAL} for source in sources]
    content = [*blocks, {"type": "text", "text": QUESTION}]
    message = await world.claude(messages=[{"role": "user", "content": content}], tools=[])
    assert message.content[-1].text == response.output_text == "Two cats."
    for seen in world.eye.asks:
        assert [media.url for media in seen.prompt.media] == PICTURES
    assert len(world.eye.asks) == 2
    assert world.last_call.request.probe
    assert "[image]\n[image]" in (world.last_call.request.prompt.messages or ())[-1].content.replace(
        "\n\n", "\n"
    )


def split(url: str) -> tuple[str, str]:
    header, _, data = url.partition(";base64,")
    return header.removeprefix("data:"), data


IMAGE = {"type": "image", "source": {"type": "url", "url": PICTURES[0]}}
CLAUDE_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": REQUEST["messages"], "system": REQUEST["system"]}, "prompt is too long"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
    ({"messages": [{"role": "user", "content": [IMAGE]}], "model": "generalist/chef"}, "does not take pict"),
    ({"extra_body": {"mcp_servers": [{"type": "url", "url": "https://a", "name": "a"}]}}, "mcp_servers"),
]
CODEX_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"instructions": CODEX["instructions"], "tools": CODEX["tools"]}, "context length is 4096 tokens"),
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "send the whole conversation"),
    ({"tools": [{"type": "web_search"}]}, "web_search"),
    ({"tools": [{"type": "custom", "name": "apply_patch"}]}, "offer a function"),
]


@pytest.mark.parametrize(("changes", "words"), CLAUDE_REFUSED, ids=[words for _, words in CLAUDE_REFUSED])
async def test_what_claude_code_asks_in_vain_is_refused_by_name(
    world: World, changes: dict[str, Any], words: str
):
    with pytest.raises(anthropic.BadRequestError) as caught:
        await world.claude(**changes)
    assert words in caught.value.message


@pytest.mark.parametrize(("changes", "words"), CODEX_REFUSED, ids=[words for _, words in CODEX_REFUSED])
async def test_what_codex_asks_in_vain_is_refused_by_name(world: World, changes: dict[str, Any], words: str):
    with pytest.raises(openai.BadRequestError) as caught:
        await world.codex(**changes)
    assert words in caught.value.message
