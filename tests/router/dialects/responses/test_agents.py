"""Requests in the shapes that coding agents and agent frameworks send: served, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from router.dialects.app import build_app
from router.dialects.responses.items import unseal
from router.model_port import ModelRequest
from tests.clients.scripts import gateway
from tests.fakes.models import FakeModel
from tests.router.dialects.responses.event_grammar import Reader, decoded

SHELL = {
    "type": "function",
    "name": "exec_command",
    "description": "Runs a command in a PTY.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"cmd": {"type": "string"}, "yield_time_ms": {"type": "number"}},
        "required": ["cmd"],
        "additionalProperties": False,
    },
}
CONVERT = {**SHELL, "name": "to_roman"}
MCP = {
    "type": "namespace",
    "name": "mcp__files",
    "description": "Tools in the mcp__files namespace.",
    "tools": [{**SHELL, "name": f"read_{index}", "defer_loading": True} for index in range(28)],
}
CODEX: dict[str, Any] = {
    "model": "generalist",
    "instructions": f"You are a coding agent. {'guideline-' * 2000}",
    "input": [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "<permissions>Sandboxed.</permissions>"}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "<cwd>/a</cwd>"}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "9 and 8 as a roman numeral?"}],
        },
    ],
    "tools": [CONVERT, SHELL, MCP],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "019a-thread",
    "text": {"verbosity": "medium"},
    "client_metadata": {"x-codex-installation-id": "a"},
}
WEB_SEARCH = {"type": "web_search", "external_web_access": False}
APPLY_PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: begin_patch"},
}


class Agent:
    """Sends requests in one conversation, and keeps what Codex keeps of an answer."""

    def __init__(self) -> None:
        self.gateway = gateway()
        self.history: list[dict[str, Any]] = list(CODEX["input"])

    async def send(self, **changes: Any) -> httpx.Response:
        transport = httpx.ASGITransport(build_app(self.gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://router/v1") as client:
            body = {**CODEX, "input": self.history, **changes}
            headers = {"originator": "codex_cli_rs", "accept": "text/event-stream"}
            return await client.post("/responses", json=body, headers=headers)

    async def turn(self, **changes: Any) -> list[dict[str, Any]]:
        """The items of the next answer; the history gets them without ids and the text of thoughts."""
        response = await self.send(**changes)
        assert response.status_code == 200, response.text
        output: list[dict[str, Any]] = Reader().read(decoded(response.text)).response["output"]
        for item in output:
            hidden = ("id", "content", "status") if item["type"] == "reasoning" else ("id", "status")
            self.history.append({key: value for key, value in item.items() if key not in hidden})
        return output

    def asked(self, name: str) -> ModelRequest:
        model = self.gateway.models[name]
        assert isinstance(model, FakeModel)
        return model.asks[-1]


async def test_a_coding_agent_calls_in_parallel_and_goes_on_with_the_results():
    agent = Agent()
    calls = await agent.turn()
    assert [(call["name"], call["arguments"]) for call in calls] == [
        ("to_roman", '{"number": 9}'),
        ("to_roman", '{"number": 8}'),
    ]
    for call, result in zip(calls, ("IX", "VIII"), strict=True):
        item = {"type": "function_call_output", "call_id": call["call_id"], "output": result}
        agent.history.append(item)
    [call] = await agent.turn()
    assert (call["name"], json.loads(call["arguments"])) == ("to_morse", {"text": "IX"})
    messages = agent.asked("roman").prompt.messages or ()
    assert [message.role for message in messages] == ["system", "user", "user", "assistant", "tool", "tool"]
    assert messages[0].content.startswith("You are a coding agent")
    assert messages[0].content.endswith("</permissions>")
    assert len(messages[3].tool_calls) == 2


async def test_models_see_all_tools_of_a_coding_agent():
    agent = Agent()
    await agent.turn()
    options = agent.asked("roman").prompt.options
    assert options is not None
    names = [tool["function"]["name"] for tool in options.tools]
    assert names == ["to_roman", "exec_command", *(f"mcp__files__read_{index}" for index in range(28))]
    assert options.tools[1]["function"]["parameters"] == SHELL["parameters"]


async def test_thoughts_go_back_to_the_model_though_the_agent_keeps_only_their_sealed_form():
    agent = Agent()
    thoughts, message = await agent.turn(tool_choice="none")
    assert unseal(thoughts["encrypted_content"]) == "9 is small"
    assert message["type"] == "message"
    assert "content" not in agent.history[-2]
    agent.history.append({"type": "message", "role": "user", "content": "8 as a roman numeral?"})
    await agent.turn(tool_choice="none")
    [said] = [
        message for message in agent.asked("roman").prompt.messages or () if message.role == "assistant"
    ]
    assert (said.reasoning, said.content) == ("9 is small", "IX\nas the Romans wrote")


@pytest.mark.parametrize(
    ("tool", "remedy"), [(WEB_SEARCH, 'web_search = "disabled"'), (APPLY_PATCH, "offer a function")]
)
async def test_a_tool_that_no_model_here_can_use_is_refused_with_what_to_do(tool: Any, remedy: str):
    response = await Agent().send(tools=[SHELL, tool])
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("tools.1.type", "unsupported_parameter")
    assert tool["type"] in error["message"]
    assert remedy in error["message"]


async def test_the_second_request_of_a_framework_that_counts_on_a_store_is_refused():
    response = await Agent().send(previous_response_id="resp_1", store=None)
    assert response.json()["error"]["param"] == "previous_response_id"
    assert "send the whole conversation" in response.json()["error"]["message"]


async def test_a_form_for_the_last_message_of_an_agent():
    """`codex exec --output-schema`."""
    form = {
        "type": "json_schema",
        "strict": True,
        "name": "codex_output_schema",
        "schema": {"type": "object"},
    }
    *_, message = await Agent().turn(text={"format": form}, tools=[])
    assert json.loads(message["content"][0]["text"]) == {"number": 9, "numeral": "IX"}
