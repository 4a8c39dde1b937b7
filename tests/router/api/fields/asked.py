"""Requests as a client sends them, parsed."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.body import parse
from router.api.requests import ChatRequest, CompletionRequest
from router.api.sse import to_json
from router.errors import InvalidRequest
from router.prompt import ChatOptions
from router.sampling import SamplingOptions

QUESTION = {"role": "user", "content": "What is 9 in roman numerals?"}


def chat(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, to_json({"messages": [QUESTION], **fields}))


def text(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, to_json({"prompt": "9 is", **fields}))


def options(request: ChatRequest | CompletionRequest) -> SamplingOptions:
    found = request.sampling(0).options
    assert found is not None
    return found


def chat_options(request: ChatRequest | CompletionRequest) -> ChatOptions:
    [prompt] = request.prompts()
    assert prompt.options is not None
    return prompt.options


def refusal(kind: type[ChatRequest] | type[CompletionRequest], **fields: Any) -> InvalidRequest:
    """The error that a client gets."""
    with pytest.raises(InvalidRequest) as refused:
        parse(kind, to_json({"messages": [QUESTION], "prompt": "9 is", **fields}))
    return refused.value
