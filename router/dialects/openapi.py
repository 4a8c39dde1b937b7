"""The OpenAPI 3.1 document, which FastAPI builds from the routes and this module completes.

Requests are described by the models that parse them and errors by the classes that are raised, so the
document cannot drift from what the router does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from router import errors
from router.api.completion_models import ResponseModel
from router.api.dialect import OPENAI, Dialect
from router.api.response_models import HealthResponse
from router.dialects.json_schema import Described, Schema, schemas
from router.errors import RouterError

VERSION = "1.0.0"  # of the HTTP API, not of the package
DESCRIPTION = """\
Many expert models behind one OpenAI-compatible address.

Fields of a request that no known server documents are ignored, except in `routing`; a null counts as absent.
Bodies are JSON, whatever their `content-type` is, and may be compressed by gzip. A stream that fails ends
with an event that holds an error."""
GET_ERRORS = (400, 401, 429, 500, 503)


class DocumentedApp(FastAPI):
    """A FastAPI app that documents endpoints which parse requests and build responses themselves.

    JSON Schema cannot express that two fields contradict each other or that an expert does not exist; such
    requests fit the document and get a 400.
    """

    def __init__(self) -> None:
        super().__init__(
            title="Expert token routing",
            version=VERSION,
            description=DESCRIPTION,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
        self._models: list[Described] = []

    def add(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        answer: type[ResponseModel],
        request: type[BaseModel] | None = None,
        *,
        chunk: type[BaseModel] | None = None,
        name: str = "",
        statuses: tuple[int, ...] = GET_ERRORS,
        dialect: Dialect = OPENAI,
        **extra: Any,
    ) -> None:
        """Add a route: a POST if it has a `request` body, else a GET. The endpoint's docstring describes it.

        Args:
            answer: The body of a 200.
            chunk: The data of each event, if the answer can be streamed.
            name: The name of the operation; by default that of the endpoint.
            statuses: The errors of a GET. A POST can have every error that the router raises.
            extra: Further fields of the OpenAPI operation.
        """
        self._models += filter(None, (request, answer, chunk, dialect.error_model))
        if request is not None:
            statuses = tuple(_codes_by_status())
            extra["requestBody"] = {"required": True, "content": _json(request)}
        self.add_api_route(
            path,
            endpoint,
            methods=["GET" if request is None else "POST"],
            operation_id=to_camel(name or endpoint.__name__),
            response_model=None,
            responses=_responses(answer, chunk, statuses, dialect),
            openapi_extra={"parameters": _parameters(path), **extra},
        )

    def openapi(self) -> Schema:
        """The document, made once; do not change it."""
        if self.openapi_schema is None:
            self.openapi_schema = {
                **super().openapi(),
                "security": [{}, {"bearer": []}, {"key": []}],  # {}: a cluster without API keys
                "components": {
                    "schemas": schemas(self._models),
                    "securitySchemes": _SECURITY_SCHEMES,
                },
            }
        return self.openapi_schema


_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_REQUEST_ID = {
    "name": "x-request-id",
    "in": "header",
    "description": "Returned in the response if it has at most 128 characters of A-Z, a-z, 0-9, `.`, `_` and "
    "`-`; otherwise the router chooses one.",
    "schema": {"type": "string"},
}
_MODEL_ID = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "description": "As listed by `/v1/models`; its slash need not be escaped.",
    "schema": {"type": "string", "minLength": 1},
}


def _parameters(path: str) -> list[Schema]:
    return [_REQUEST_ID, _MODEL_ID] if "{model_id" in path else [_REQUEST_ID]


def _responses(
    answer: type[ResponseModel],
    chunk: type[BaseModel] | None,
    statuses: tuple[int, ...],
    dialect: Dialect,
) -> dict[int | str, Schema]:
    content = _json(answer) if chunk is None else {**_json(answer), **_events(chunk, dialect)}
    responses: dict[int | str, Schema] = {200: _response(200, "OK", content)}
    for status in statuses:
        description = "; code ".join(filter(None, (HTTPStatus(status).phrase, _codes_by_status()[status])))
        # Even a router that is not ready reports the state of its models.
        body = answer if (answer, status) == (HealthResponse, 503) else dialect.error_model
        responses[status] = _response(status, description, _json(body))
    return responses


def _events(chunk: type[BaseModel], dialect: Dialect) -> Schema:
    """A stream, described by one event: OpenAPI 3.1 has no schema for streams."""
    content = {"anyOf": [_ref(chunk), _ref(dialect.error_model)]}
    parsed = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    data = {"anyOf": [{"const": "[DONE]"}, parsed]} if dialect.has_done else parsed
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {"text/event-stream": {"schema": event}}


def _codes_by_status() -> dict[int, str]:
    """Every error status of the router, with its codes as Markdown."""
    codes: dict[int, list[str]] = {}
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, RouterError):
            codes.setdefault(error.status, []).extend([f"`{error.code}`"] if error.code else [])
    return {status: ", ".join(dict.fromkeys(names)) for status, names in sorted(codes.items())}


def _response(status: int, description: str, content: Schema) -> Schema:
    request_id = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
    headers = {
        "x-request-id": {"required": True, "schema": request_id},
        "openai-processing-ms": {"schema": {"type": "integer", "minimum": 0}},
    }
    if status == 401:
        headers["www-authenticate"] = {"required": True, "schema": {"const": "Bearer"}}
    if status in (429, 503, 504):
        # A 504 for the answer's total time has none: nothing is known about the next try.
        seconds = {"type": "integer", "minimum": 1}
        headers["retry-after"] = {"required": status != 504, "schema": seconds}
    return {"description": description, "headers": headers, "content": content}


def _json(model: Described) -> Schema:
    return {"application/json": {"schema": _ref(model)}}


def _ref(model: Described) -> Schema:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
