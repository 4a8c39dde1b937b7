"""`data:` URIs: media that a request brings along."""

from __future__ import annotations

import base64
import binascii
import re

from router.errors import InvalidRequest

CODE = "invalid_media"  # of every error about the media in a request
_HEADER = re.compile(r"data:([a-zA-Z0-9.+-]+/[a-zA-Z0-9.+-]+);base64,")


def parse_data_uri(uri: str, max_bytes: int) -> tuple[str, bytes]:
    """The declared type in lower case, and the data.

    Raises InvalidRequest: it is not base64 of a declared type, empty, or larger than `max_bytes`.
    """
    header = _HEADER.match(uri)
    if header is None:
        raise InvalidRequest("a data: URI must begin with data:TYPE/SUBTYPE;base64,", "messages", CODE)
    encoded = memoryview(uri.encode("ascii", "replace"))[header.end() :]
    if len(encoded) // 4 * 3 > max_bytes + 2:
        raise too_large(max_bytes)
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidRequest("the data are not valid base64", "messages", CODE) from error
    if not data:
        raise InvalidRequest("it is empty", "messages", CODE)
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    return header[1].lower(), data


def to_data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def too_large(max_bytes: int) -> InvalidRequest:
    problem = (
        f"it has more than the {max_bytes} bytes that are left for it: all media of a request share them"
    )
    return InvalidRequest(problem, "messages", CODE)
