"""A client of the pipeline: it asks, runs the tool when a model calls it, and sends the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.pipeline.conversions import TOOL, convert

MAX_CALLS = 3  # of the tool, in one conversation
MAX_TOKENS = 96


@dataclass
class Conversation:
    """`messages`: as in the API. For each answer, `spans` have who wrote which part of its text, and `models`
    those that were called, in this order. `calls`: the arguments of each call of the tool, and its result."""

    messages: list[dict[str, Any]]
    spans: list[list[tuple[str, str]]] = field(default_factory=list)
    models: list[list[str]] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def answer(self) -> str:
        return str(self.messages[-1]["content"])


async def converse(client: httpx.AsyncClient, question: str) -> Conversation:
    """Ask, and go on until an answer has no call. Raises httpx.HTTPStatusError."""
    conversation = Conversation([{"role": "user", "content": question}])
    for _ in range(MAX_CALLS + 1):
        message = await _answer(client, conversation)
        conversation.messages.append(message)
        if not message.get("tool_calls"):
            break
        conversation.messages += [_run(call, conversation) for call in message["tool_calls"]]
    return conversation


async def _answer(client: httpx.AsyncClient, conversation: Conversation) -> dict[str, Any]:
    body = {
        "messages": conversation.messages,
        "tools": [TOOL],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "routing": {"trace": True},
    }
    response = await client.post("/v1/chat/completions", json=body)
    [choice] = response.raise_for_status().json()["choices"]
    routing = choice["routing"]
    conversation.spans.append([(span["model"], span["text"]) for span in routing["spans"]])
    conversation.models.append([call["model"] for call in routing["timing"]["calls"]])
    message: dict[str, Any] = choice["message"]
    return message


def _run(call: Mapping[str, Any], conversation: Conversation) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    result = convert(arguments)
    conversation.calls.append((arguments, result))
    return {"role": "tool", "content": result, "tool_call_id": call["id"]}
