"""The body of a request: its size, its compression, and the request in it."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from router.api.fields.feedback import FeedbackRequest
from router.api.fields.table import EndpointRequest
from router.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

MAX_PARAM_LENGTH = 256  # error messages repeat the path of a field, and the client chooses the names in it
MAX_QUOTED_CODING = 64

AnyBody = TypeVar("AnyBody", bound=EndpointRequest)
AnyModel = TypeVar("AnyModel", bound=BaseModel)

# The value of `wbits` for which zlib reads the header of each coding.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


async def read_body(parts: AsyncIterator[bytes], content_encoding: str, max_bytes: int) -> bytes:
    """The body before compression. Its size is counted, since `content-length` may be missing or wrong.

    Raises:
        BodyTooLarge: it is larger than `max_bytes`, compressed or not.
        UnsupportedMediaType: it is compressed in a way that the router does not know.
        InvalidRequest: it is not what `content_encoding` says.
    """
    coding = content_encoding.strip().lower()
    if coding not in ("", "identity", *_WINDOW_BITS):
        quoted = content_encoding[:MAX_QUOTED_CODING]
        raise UnsupportedMediaType(f"content-encoding '{quoted}' is not supported: send gzip, or no coding")
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return _decompressed(body, coding, max_bytes) if coding in _WINDOW_BITS else bytes(body)


def parse(kind: type[AnyBody], body: bytes) -> AnyBody:
    """Parse a request body.

    Raises:
        InvalidRequest: the body is not a JSON object, a field is invalid, or a parameter is not supported.
    """
    fields = _object(body)
    for name in fields.keys() & kind.refused.keys():
        if fields[name] is not None:
            kind.refused[name].check(fields[name])
    return validated(kind, fields)


def parse_feedback(body: bytes) -> FeedbackRequest:
    """Raises InvalidRequest as `parse` does, and if a field is unknown."""
    return validated(FeedbackRequest, _object(body))


def validated(kind: type[AnyModel], fields: dict[str, Any]) -> AnyModel:
    """The model with these fields. Raises InvalidRequest if one is invalid."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _to_invalid_request(error) from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    return fields


def _decompressed(body: bytearray, coding: str, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_WINDOW_BITS[coding])
    if coding == "deflate" and body[:1] and body[0] & 0x0F != 8:
        decompressor = zlib.decompressobj(-15)  # some clients leave zlib's header out
    try:
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not valid {coding}, which its content-encoding says") from error
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise InvalidRequest(f"the body is not one whole {coding} stream, which its content-encoding says")
    return plain


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than the limit of {max_bytes} bytes")


def _to_invalid_request(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Pydantic marks an error about a key of an object by a further "[key]".
    # Not the tags of the forms that a field may have, such as `<texts>`.
    path = [str(part) for part in first["loc"] if part != "[key]" and not str(part).startswith("<")]
    param = ".".join(path)[:MAX_PARAM_LENGTH] or None
    code = first["type"] if first["type"] == "unsupported_parameter" else None
    return InvalidRequest(f"{param}: {first['msg']}" if param else first["msg"], param, code)
