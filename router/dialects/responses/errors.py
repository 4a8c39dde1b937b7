"""Errors, as /v1/responses spells them."""

from __future__ import annotations

from typing import Any

from router.api.dialect import Dialect
from router.api.response_models import ErrorResponse
from router.api.sse import envelope
from router.errors import RequestError, RouterError


def param_of(error: RouterError) -> str | None:
    """The field that the error is about. Models know a conversation as `messages`."""
    return "input" if error.param == "messages" else error.param


def code_of(error: RouterError) -> str:
    """OpenAI's few codes of a failed response."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, RequestError) else "server_error"


def _envelope(error: RouterError, _request_id: str) -> dict[str, Any]:
    return {"error": {**envelope(error)["error"], "param": param_of(error)}}


RESPONSES = Dialect(_envelope, ErrorResponse)
