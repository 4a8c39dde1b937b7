"""The OpenAPI 3.1 document of the HTTP surface.

Requests are described by the models that read them and errors by the tree they are raised from, so that
neither can drift from what the router does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus

from router import errors
from router.errors import RouterError
from router.openai import AnswerRequest, ChatRequest, CompletionRequest
from router.responses import (
    ChatChunk,
    ChatCompletion,
    Chunk,
    Document,
    ErrorResponse,
    Health,
    ModelCard,
    ModelList,
    RoutingDistribution,
    Shape,
    Stats,
    TextChunk,
    TextCompletion,
)
from router.schemas import Described, Schema, schemas

VERSION = "1.0.0"  # of the surface, not of the package
DESCRIPTION = """\
Many expert models behind one OpenAI-compatible address.

Unknown fields of a request are ignored, except in `routing`; a null counts as not given. Bodies are JSON,
whatever their `content-type` says. A stream that breaks off ends with an event that carries an error."""


@cache
def document() -> Schema:
    """The whole document, ready for JSON. Made once, for it takes as long as some answers: do not change it.

    What JSON Schema cannot say is left to the 400: that two fields contradict each other, that an expert is
    not there.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": "Expert token routing", "version": VERSION, "description": DESCRIPTION},
        # A key is needed once the cluster has any; until then everybody may ask.
        "security": [{}, {"bearer": []}],
        "paths": {one.path: {one.method: one.described()} for one in _operations()},
        "components": {
            "schemas": schemas(_shapes()),
            "responses": {f"Error{status}": _error(status) for status in _codes()},
            "parameters": {"RequestId": _REQUEST_ID},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


@dataclass(frozen=True)
class _Operation:
    path: str
    id: str
    summary: str
    answer: type[Shape]
    request: type[AnswerRequest] | None = None
    chunk: type[Chunk] | None = None
    errors: tuple[int, ...] = (400, 401, 429, 500, 503)

    @property
    def method(self) -> str:
        return "get" if self.request is None else "post"

    def described(self) -> Schema:
        parameters = [_ref("RequestId", "parameters")]
        if "{model_id}" in self.path:
            parameters.append(_MODEL_ID)
        operation: Schema = {"operationId": self.id, "summary": self.summary, "parameters": parameters}
        if self.request is not None:
            operation["requestBody"] = {"required": True, "content": _json(self.request)}
        if self.answer is Health:
            operation["security"] = []  # whoever watches the router has no key
        return {**operation, "responses": self._responses()}

    def _responses(self) -> Schema:
        content = _json(self.answer)
        if self.chunk is not None:
            content["text/event-stream"] = {"schema": _event(self.chunk)}
        answered = {"description": "OK", "headers": _headers(200), "content": content}
        failed = {str(status): _ref(f"Error{status}", "responses") for status in self.errors}
        if self.answer is Health:
            # Unlike any other failure, this one tells the rest as well.
            failed["503"] = {**answered, "description": "The meta does not answer", "headers": _headers(503)}
        return {"200": answered, **failed}


def _operations() -> Iterator[_Operation]:
    every = tuple(_codes())
    path, about = "/v1/chat/completions", "Answer a conversation"
    yield _Operation(path, "createChatCompletion", about, ChatCompletion, ChatRequest, ChatChunk, every)
    path, about = "/v1/completions", "Go on with a text"
    yield _Operation(path, "createCompletion", about, TextCompletion, CompletionRequest, TextChunk, every)
    path, about = "/v1/route", "Tell which expert would answer; nothing is generated"
    yield _Operation(path, "route", about, RoutingDistribution, ChatRequest, errors=every)
    path, about = "/v1/models/{model_id}", "Describe a model"
    yield _Operation(path, "retrieveModel", about, ModelCard, errors=(400, 401, 404, 429, 500, 503))
    yield _Operation("/v1/models", "listModels", "List the models a client may name", ModelList)
    yield _Operation("/healthz", "health", "Tell whether the router can answer", Health, errors=(429, 500))
    yield _Operation("/stats", "stats", "Tell how busy the models are", Stats)
    yield _Operation("/openapi.json", "openapi", "Describe this interface", Document)


def _shapes() -> Iterator[Described]:
    yield ErrorResponse
    for one in _operations():
        yield from (shape for shape in (one.request, one.answer, one.chunk) if shape is not None)


_REQUEST_ID = {
    "name": "x-request-id",
    "in": "header",
    "description": "Comes back if it has at most 128 characters of A-Z, a-z, 0-9, `.`, `_` and `-`; "
    "else the router chooses one.",
    "schema": {"type": "string"},
}
_MODEL_ID = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "description": "As `/v1/models` lists it; a slash in it may be sent as it is.",
    "schema": {"type": "string", "minLength": 1},
}


def _event(chunk: type[Chunk]) -> Schema:
    """One event: OpenAPI 3.1 has no word for a stream, and its readers take this for the items."""
    content = {"anyOf": [_ref(chunk.__name__), _ref(ErrorResponse.__name__)]}
    parsed = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    data = {"anyOf": [{"const": "[DONE]"}, parsed]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _codes() -> dict[int, list[str]]:
    """The codes of every error the router raises, by status."""
    codes: dict[int, list[str]] = {}
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, RouterError):
            codes.setdefault(error.status, []).extend([error.code] if error.code else [])
    return dict(sorted(codes.items()))


def _error(status: int) -> Schema:
    codes = ", ".join(f"`{code}`" for code in dict.fromkeys(_codes()[status]))
    description = f"{HTTPStatus(status).phrase}; code {codes}" if codes else HTTPStatus(status).phrase
    return {"description": description, "headers": _headers(status), "content": _json(ErrorResponse)}


def _headers(status: int) -> Schema:
    request_id = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
    headers = {
        "x-request-id": {"required": True, "schema": request_id},
        "openai-processing-ms": {"schema": {"type": "integer", "minimum": 0}},
    }
    if status == 401:
        headers["www-authenticate"] = {"required": True, "schema": {"const": "Bearer"}}
    if status in (429, 503, 504):
        # An answer's own deadline (504) says nothing of when another one would be in time.
        seconds = {"type": "integer", "minimum": 1}
        headers["retry-after"] = {"required": status != 504, "schema": seconds}
    return headers


def _json(shape: Described) -> Schema:
    return {"application/json": {"schema": _ref(shape.__name__)}}


def _ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}
