"""Requests in the shapes that coding agents send."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from router.dialects.app import build_app
from router.model_port import Finish, ModelChunk, ModelRequest
from router.parts import TextPart, ToolCallPart
from tests.fakes.models import FakeGateway, FakeModel, Item, writes

HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-api-key": "none",
    "x-app": "cli",
    "user-agent": "claude-cli/2.0.0 (external, cli)",
    "x-stainless-helper-method": "stream",
}
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
SYSTEM = [
    {"type": "text", "text": "You are a coding agent.", **EPHEMERAL},
    {"type": "text", "text": "Follow these rules with care. " * 2000, **EPHEMERAL},
]


def tool(number: int) -> dict[str, Any]:
    path = {"type": "string", "description": "An absolute path"}
    properties = {
        "file_path": path,
        "edits": {"type": "array", "items": {"type": "object", "properties": {"old": path, "new": path}}},
        "limit": {"type": ["number", "null"]},
    }
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": properties,
        "required": ["file_path"],
        "additionalProperties": False,
    }
    return {
        "name": f"mcp__server__tool_{number}",
        "description": "Does a thing.\n" * 80,
        "input_schema": schema,
    }


TOOLS = [*(tool(number) for number in range(29)), {**tool(29), **EPHEMERAL}]


def turn(number: int, *calls: str) -> list[dict[str, Any]]:
    """Thoughts, text and parallel calls; then their results, with a reminder after them."""
    uses = [
        {"type": "tool_use", "id": name, "name": f"mcp__server__tool_{number}", "input": {"file_path": "/a"}}
        for name in calls
    ]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": name,
            "content": [{"type": "text", "text": "line\n" * 50}],
            "is_error": index == 1,
            **EPHEMERAL,
        }
        for index, name in enumerate(calls)
    ]
    thought = {"type": "thinking", "thinking": "I need both files.", "signature": "EqQBCg"}
    text = {"type": "text", "text": "I will read them."}
    reminder = {"type": "text", "text": "<system-reminder>The list of tasks is empty.</system-reminder>"}
    return [
        {"role": "assistant", "content": [thought, text, *uses]},
        {"role": "user", "content": [*results, reminder]},
    ]


REQUEST: dict[str, Any] = {
    "model": "generalist",
    "max_tokens": 32000,
    "temperature": 1,
    "stream": True,
    "system": SYSTEM,
    "tools": TOOLS,
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "metadata": {"user_id": "user_0_account__session_0"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>Context.</system-reminder>"},
                {"type": "text", "text": "Fix the bug.", **EPHEMERAL},
            ],
        },
        *turn(1, "toolu_01", "toolu_02"),
        *turn(2, "toolu_03"),
    ],
}


def calls_two(ask: ModelRequest) -> list[Item]:
    parts = (
        TextPart("Now both."),
        ToolCallPart(0, "mcp__server__tool_0", '{"file_path": "/a"}'),
        ToolCallPart(1, "mcp__server__tool_1", '{"file_path": "/b"}'),
    )
    return [
        *(ModelChunk(num_tokens=1, num_prompt_tokens=9000, parts=(part,)) for part in parts),
        ModelChunk(finish=Finish.STOP),
    ]


async def send(
    meta: FakeModel, path: str, body: dict[str, Any], roman: FakeModel | None = None
) -> httpx.Response:
    fakes = {"meta": meta, "roman": roman or FakeModel(writes("IX"))}
    gateway = FakeGateway(fakes, max_body_bytes=1_048_576)
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        return await client.post(path, params={"beta": "true"}, json=body, headers=HEADERS)


async def test_a_long_conversation_with_thirty_tools_is_served():
    meta = FakeModel(calls_two)
    response = await send(meta, "/v1/messages", REQUEST)
    assert response.status_code == 200, response.text
    assert response.text.count('"type":"tool_use"') == 2
    assert '"stop_reason":"tool_use"' in response.text
    [asked] = meta.asks
    messages = asked.prompt.messages or ()
    roles = "system user assistant tool tool user assistant tool user"
    assert [message.role for message in messages] == roles.split()
    assert messages[0].content.startswith("You are a coding agent.\nFollow")
    assert [len(message.tool_calls) for message in messages if message.role == "assistant"] == [2, 1]
    assert messages[4].content.startswith("Error: line")
    assert asked.prompt.options is not None
    assert len(asked.prompt.options.tools) == 30


async def test_a_reminder_beside_a_result_goes_with_it_and_a_message_after_it_does_not():
    meta, roman = FakeModel(writes("I will.")), FakeModel(writes("IX"))
    conversation = [*REQUEST["messages"][:1], *turn(1, "call_roman_1")]
    question = {"role": "user", "content": "Stop, do something else."}
    for messages, author in ((conversation, "IX"), ([*conversation, question], "I will.")):
        body = {**REQUEST, "stream": False, "messages": messages}
        response = await send(meta, "/v1/messages", body, roman=roman)
        assert response.json()["content"] == [{"type": "text", "text": author}]
    [asked] = roman.asks
    assert [message.role for message in (asked.prompt.messages or ())][-2:] == ["tool", "user"]


async def test_a_small_request_for_a_title_is_served():
    """Agents have a small model name a conversation, with a first word of the answer."""
    body = {
        "model": "generalist",
        "max_tokens": 512,
        "temperature": 0,
        "system": "Find a title. Answer in JSON.",
        "messages": [{"role": "user", "content": "Fix the bug."}, {"role": "assistant", "content": "{"}],
    }
    meta = FakeModel(writes('"title": "Bug"}'))
    response = await send(meta, "/v1/messages", body)
    assert response.json()["content"] == [{"type": "text", "text": '"title": "Bug"}'}]
    assert meta.asks[0].prompt.written == "{"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"tools": [*TOOLS, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]},
            "web_search_20250305",
        ),
        ({"mcp_servers": [{"type": "url", "url": "https://a", "name": "a"}]}, "mcp_servers is not supported"),
        ({"model": "claude-sonnet-4-5-20250929"}, "claude-sonnet-4-5-20250929"),
    ],
)
async def test_what_is_not_served_is_refused_by_name(change: dict[str, Any], words: str):
    response = await send(FakeModel(calls_two), "/v1/messages", {**REQUEST, **change})
    assert response.status_code in (400, 404)
    assert words in response.json()["error"]["message"]
    assert response.headers["request-id"] == response.json()["request_id"]


async def test_the_tokens_of_the_same_request_are_counted():
    def probed(ask: ModelRequest) -> list[Item]:
        return [ModelChunk(num_prompt_tokens=9000, finish=Finish.STOP, distribution={})]

    body = {name: REQUEST[name] for name in ("model", "system", "tools", "messages", "thinking")}
    response = await send(FakeModel(probed), "/v1/messages/count_tokens", body)
    assert response.json() == {"input_tokens": 9000}
