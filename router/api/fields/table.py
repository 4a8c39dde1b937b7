"""Every request field that OpenAI, vLLM, SGLang, llama.cpp or TGI documents, and what becomes of it here.

A field is honoured, refused by name, or one that changes nothing here. No documented field is ignored
without a word; what none of these servers documents is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from router.api.fields.strict import StrictRequest
from router.errors import InvalidRequest


class Endpoint(StrEnum):
    CHAT = "/v1/chat/completions"
    TEXT = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"
    EMBEDDINGS = "/v1/embeddings"


BOTH = (Endpoint.CHAT, Endpoint.TEXT)
# Who documents a field, by letter; R is this router alone.
SERVERS = {
    "O": "OpenAI",
    "V": "vLLM",
    "S": "SGLang",
    "L": "llama.cpp",
    "T": "TGI",
    "A": "Anthropic",
    "R": "this router",
}


@dataclass(frozen=True, slots=True)
class HonouredField:
    """`values` and `meaning` are Markdown, for the documentation."""

    name: str
    servers: str
    values: str
    meaning: str
    endpoints: tuple[Endpoint, ...] = BOTH


@dataclass(frozen=True, slots=True)
class RefusedField:
    """Refused, except with a value of `accepted`, which asks for nothing. `remedy` completes the error."""

    name: str
    servers: str
    accepted: tuple[Any, ...]
    remedy: str
    endpoints: tuple[Endpoint, ...] = BOTH

    def check(self, value: Any) -> None:
        """Raises InvalidRequest if the value asks for something."""
        # In Python, False == 0; but `logprobs: 0` asks for something, unlike `logprobs: false`.
        if any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.accepted):
            return
        raise InvalidRequest(
            f"{self.name} is not supported: {self.remedy}", self.name, "unsupported_parameter"
        )


@dataclass(frozen=True, slots=True)
class NoEffectField:
    name: str
    servers: str
    reason: str


class EndpointRequest(StrictRequest):
    """The body of a request to an endpoint. `refused` are the fields that it refuses by name."""

    refused: ClassVar[Mapping[str, RefusedField]] = {}


def refused_by(endpoint: Endpoint, fields: Iterable[RefusedField]) -> Mapping[str, RefusedField]:
    """Those of the fields that the endpoint refuses, by name."""
    return {field.name: field for field in fields if endpoint in field.endpoints}
