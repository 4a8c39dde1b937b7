"""Errors in Anthropic's envelope."""

from __future__ import annotations

from typing import Any

from router.api.dialect import Dialect
from router.api.sse import Framing, typed_event
from router.dialects.messages.response_models import MessagesErrorResponse
from router.errors import ContextLengthExceeded, RouterError, ServiceError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
PING = typed_event({"type": "ping"})


def message_error(error: RouterError, request_id: str) -> dict[str, Any]:
    # Agents shorten a conversation when they read these words.
    is_too_long = isinstance(error, ContextLengthExceeded)
    message = f"prompt is too long: {error.message}" if is_too_long else error.message
    content = {"type": _error_type(error), "message": message}
    return {"type": "error", "error": content, "request_id": request_id}


def _error_type(error: RouterError) -> str:
    if error.status == 429 and isinstance(error, ServiceError):
        return "overloaded_error"
    return _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")


MESSAGES = Dialect(message_error, MessagesErrorResponse, request_id_header="request-id")
FRAMING = Framing(lambda error, request_id: typed_event(message_error(error, request_id)), PING, b"")
