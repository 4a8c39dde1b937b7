"""A server's error replies, as errors of this package.

A server's own message may contain the API key, so what reaches the client is either ours or has the key
removed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from experts.engine.config import OpenAIConfig
from experts.engine.openai.request_body import OPTION_FIELDS
from experts.errors import (
    ContextLengthExceeded,
    ExpertsError,
    InvalidCall,
    RemoteBusy,
    RemoteMisconfigured,
    RemoteUnavailable,
)

MAX_QUOTED_CHARS = 300
# A prompt that is too long. OpenAI has an error code for it; vLLM, SGLang, TGI and llama.cpp have messages of
# their own. Most servers answer the same if the prompt fits and the requested limit does not.
_CONTEXT_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum (input|model) length|longer than the (maximum|model)"
    r"|must have less than \d+ tokens|`inputs` tokens|max_model_len|max_(completion_)?tokens.*too large",
    re.IGNORECASE,
)
_WINDOW = re.compile(r"context (?:length|window|size)\D{1,40}(\d{1,9})\b", re.IGNORECASE)
_TELLING_FIELDS = {field for field in OPTION_FIELDS if "_" in field}  # others are ordinary words too
_NO_SUCH_ENDPOINT = (404, 405, 501)
_NO_TOKENS = (
    "unsupported_task",
    "model",
    "this model's server does not tell tokens: ask for those of a model that runs in this cluster",
)
_OPTIONAL_PATHS = {  # that a server may lack: the code, the field and the message
    "/completions": (
        "unsupported_prompt",
        "prompt",
        "this model's server takes no raw prompts; send messages",
    ),
    "/tokenize": _NO_TOKENS,
    "/detokenize": _NO_TOKENS,
}


@dataclass(frozen=True)
class ErrorReply:
    """The HTTP status of an error reply, its code and type in one text, its message, and the field that it
    blames."""

    status: int
    code: str = ""
    message: str = ""
    param: str | None = None

    @classmethod
    def from_body(cls, status: int, body: bytes) -> ErrorReply:
        """From a response: OpenAI's error envelope, or what other servers send instead."""
        try:
            data = json.loads(body)
        except ValueError:  # covers bytes that are not text
            return cls(status)
        error = data["error"] if isinstance(data, dict) and data.get("error") else data
        return cls.from_error(error, status)

    @classmethod
    def from_error(cls, error: object, status: int | None = None) -> ErrorReply:
        """From an `error` object. One in a stream has no HTTP status, so its code or type must give one."""
        if not isinstance(error, dict):
            return cls(status or 500, message=error if isinstance(error, str) else "")
        code = error.get("code")
        if status is None:
            status = code if type(code) is int and 400 <= code <= 599 else _guess_status(error)
        message = error.get("message") or error.get("detail")
        message = message if isinstance(message, str) else ""
        return cls(status, f"{code} {error.get('type')}", message, _blamed_field(error.get("param"), message))

    def to_exception(self, name: str, config: OpenAIConfig, api_key: str | None, path: str) -> ExpertsError:
        """`name` is the model's; `api_key` is removed from the message; `path` is what was asked."""
        status = self.status
        if status in (401, 402, 403):
            return RemoteMisconfigured(f"{name}: {config.url} {_key_problem(config)} (HTTP {status})")
        if status == 429:
            return RemoteBusy(f"{name}: {config.url} accepts no more requests at present (HTTP 429)")
        if status in _NO_SUCH_ENDPOINT and path in _OPTIONAL_PATHS:
            return InvalidCall(*_OPTIONAL_PATHS[path])
        if status >= 500 or status in (408, 409, 425):
            return RemoteUnavailable(f"{name}: {config.url} failed (HTTP {status})")
        if _CONTEXT_TOO_LONG.search(f"{self.code} {self.message}"):
            window = _WINDOW.search(self.message)
            return ContextLengthExceeded(limit=int(window[1]) - 1 if window else None)
        if status in _NO_SUCH_ENDPOINT or not 400 <= status <= 499:
            return RemoteMisconfigured(
                f"{name}: {config.url} does not serve '{config.model}' (HTTP {status}); correct remote.url "
                "or remote.model"
            )
        quoted = self._quote(api_key)
        return InvalidCall("remote_refused", self.param, f"this model's server refuses the request{quoted}")

    def _quote(self, api_key: str | None) -> str:
        message = self.message.replace(api_key, "***") if api_key else self.message
        words = " ".join(message.split())
        return f": {words[:MAX_QUOTED_CHARS]}" if words else ""


def _blamed_field(param: object, message: str) -> str | None:
    """One of the options of a request: as the server says, or the first that its message names."""
    if isinstance(param, str) and param in OPTION_FIELDS:
        return param
    return next((word for word in re.findall(r"\w+", message) if word in _TELLING_FIELDS), None)


def _guess_status(error: dict[Any, Any]) -> int:
    kinds = {str(error.get("type")), str(error.get("code"))}
    if kinds & {"invalid_request_error", "BadRequestError", "context_length_exceeded"}:
        return 400
    return 429 if kinds & {"rate_limit_error", "rate_limit_exceeded", "overloaded"} else 500


def _key_problem(config: OpenAIConfig) -> str:
    if config.api_key_env is None:
        return "requires a key; set remote.api_key_env"
    return f"refuses the key in {config.api_key_env}; correct that variable"
