"""Why a server refused a call, in our own words. Theirs may hold the key, and reach the caller without it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from experts.engine.config import OpenAIConfig
from experts.errors import (
    ContextLengthExceeded,
    ExpertsError,
    InvalidCall,
    RemoteBusy,
    RemoteMisconfigured,
    RemoteUnavailable,
)

MAX_QUOTED_CHARS = 300
# OpenAI has a code for it; vLLM, SGLang, TGI and llama.cpp say it in words of their own. Of a limit that is
# beyond the window most say the same.
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum (input|model) length|longer than the (maximum|model)"
    r"|must have less than \d+ tokens|`inputs` tokens|max_model_len|max_(completion_)?tokens.*too large",
    re.IGNORECASE,
)
_NO_ENDPOINT = (404, 405, 501)


@dataclass(frozen=True)
class Refusal:
    """A status, and what the body says: the code and kind of the error, and a message for the caller."""

    status: int
    code: str = ""
    message: str = ""

    @classmethod
    def of_body(cls, status: int, body: bytes) -> Refusal:
        """OpenAI's envelope, or what other servers answer in its place."""
        try:
            data = json.loads(body)
        except ValueError:  # also of bytes that are no text
            return cls(status)
        return cls.of_error(data["error"] if isinstance(data, dict) and data.get("error") else data, status)

    @classmethod
    def of_error(cls, error: object, status: int | None = None) -> Refusal:
        """An `error` object; one that comes in a stream has its status as its code, or none that is known."""
        if not isinstance(error, dict):
            return cls(status or 500, message=error if isinstance(error, str) else "")
        code = error.get("code")
        if status is None:
            status = code if type(code) is int and 400 <= code <= 599 else _status_of(error)
        message = error.get("message") or error.get("detail")
        return cls(status, f"{code} {error.get('type')}", message if isinstance(message, str) else "")

    def translated(self, name: str, config: OpenAIConfig, key: str | None, *, is_chat: bool) -> ExpertsError:
        status = self.status
        if status in (401, 402, 403):
            return RemoteMisconfigured(f"{name}: {config.url} {_wrong_key(config)} (HTTP {status})")
        if status == 429:
            return RemoteBusy(f"{name}: {config.url} takes no more calls at present (HTTP 429)")
        if status >= 500 or status in (408, 409, 425):
            return RemoteUnavailable(f"{name}: {config.url} failed (HTTP {status})")
        if _TOO_LONG.search(f"{self.code} {self.message}"):
            return ContextLengthExceeded()
        if status in _NO_ENDPOINT and not is_chat:
            return InvalidCall(
                "unsupported_prompt", "prompt", "this model's server takes no raw prompt; send messages"
            )
        if status in _NO_ENDPOINT or not 400 <= status <= 499:
            return RemoteMisconfigured(
                f"{name}: {config.url} does not serve '{config.model}' (HTTP {status}); correct remote.url "
                "or remote.model"
            )
        return InvalidCall("remote_refused", None, f"this model's server refuses the call{self._quoted(key)}")

    def _quoted(self, key: str | None) -> str:
        message = self.message.replace(key, "***") if key else self.message
        words = " ".join(message.split())
        return f": {words[:MAX_QUOTED_CHARS]}" if words else ""


def _status_of(error: dict[Any, Any]) -> int:
    kinds = {str(error.get("type")), str(error.get("code"))}
    if kinds & {"invalid_request_error", "BadRequestError", "context_length_exceeded"}:
        return 400
    return 429 if kinds & {"rate_limit_error", "rate_limit_exceeded", "overloaded"} else 500


def _wrong_key(config: OpenAIConfig) -> str:
    if config.api_key_env is None:
        return "asks for a key; set remote.api_key_env"
    return f"refuses the key that {config.api_key_env} holds; correct that variable"
