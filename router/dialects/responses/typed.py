"""Objects whose `type` says which other fields they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from router.api.body import validated
from router.api.fields.strict import StrictRequest
from router.errors import InvalidRequest

MAX_QUOTED = 64

Parsed = TypeVar("Parsed")
Typed = TypeVar("Typed", bound=StrictRequest)


def parse_typed(
    path: str,
    value: Any,
    kinds: Mapping[str, type[Typed]],
    remedies: Mapping[str, str],
    untyped: str = "",
) -> Typed:
    """Parse an object by the model of its type.

    Args:
        path: Where the object stands.
        remedies: What completes an error, for types that are not in `kinds`.
        untyped: The type of an object that does not say one.

    Raises:
        InvalidRequest: the object is invalid, or of another type.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path} must be an object", path)
    kind = value.get("type")
    if kind is None and untyped:
        kind = untyped
    if not isinstance(kind, str):
        raise InvalidRequest(f"{path}.type must be a text", f"{path}.type")
    if kind not in kinds:
        remedy = remedies.get(kind, f"send one of {', '.join(kinds)}")
        message = f"{path}.type: {kind[:MAX_QUOTED]} is not supported: {remedy}"
        raise InvalidRequest(message, f"{path}.type", "unsupported_parameter")
    try:
        return validated(kinds[kind], value)
    except InvalidRequest as error:
        raise _at(path, error) from error


def parse_list(
    path: str, value: Any, max_length: int, parse: Callable[[str, Any], Parsed], min_length: int = 0
) -> list[Parsed]:
    """Parse each entry of a list. Raises InvalidRequest if it is not a list, too short or too long."""
    if not isinstance(value, list) or not min_length <= len(value) <= max_length:
        raise InvalidRequest(f"{path} must be a list of {min_length} to {max_length}", path)
    return [parse(f"{path}.{index}", entry) for index, entry in enumerate(value)]


def _at(path: str, error: InvalidRequest) -> InvalidRequest:
    """The error of an object that stands at `path`. A message begins with the field that it is about."""
    if error.param is None:
        return InvalidRequest(f"{path}: {error.message}", path, error.code)
    return InvalidRequest(f"{path}.{error.message}", f"{path}.{error.param}", error.code)
