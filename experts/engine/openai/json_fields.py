"""Values in the JSON of another server, which may be of any type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def first_of(value: object) -> Mapping[str, Any]:
    return dict_of(value[0]) if isinstance(value, list) and value else {}


def dict_of(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def str_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def text_of(value: object) -> str:
    """As `str_of`; halves of surrogate pairs, which cannot be encoded, are joined or replaced."""
    text = str_of(value)
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count_of(value: object, default: int | None) -> int | None:
    return value if type(value) is int and value >= 0 else default
