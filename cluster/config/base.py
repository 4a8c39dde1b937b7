"""The base class of every block of cluster.yaml, and how validation errors become one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

OWN_WORDS = "own_words"  # the type of errors whose messages are shown unchanged
# Keys of earlier versions, and their names today.
RENAMED_KEYS = {"when_away": "on_unavailable"}


@dataclass
class LoadContext:
    """What the validators of a block need to know about the file.

    Attributes:
        folder: where relative paths start.
        tokens_required: whether token files must exist.
        models_required: whether models and adapters must exist on this machine.
        known_keys: the valid keys of each mapping in the file, by the mapping's `id`. "Did you mean" needs
            them, and pydantic's error for an unknown key does not have them.
    """

    folder: Path = field(default_factory=Path)
    tokens_required: bool = True
    models_required: bool = True
    known_keys: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(info: ValidationInfo) -> LoadContext:
        return info.context if isinstance(info.context, LoadContext) else LoadContext()


class StrictConfig(BaseModel):
    """A frozen block without unknown keys or silent conversions: `true` is not 1, and "8000" is not 8000."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _remember_keys(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, dict):
            LoadContext.of(info).known_keys[id(data)] = tuple(
                field.alias or name for name, field in cls.model_fields.items()
            )
        return data


def problems(error: ValidationError, data: object, context: LoadContext) -> Iterator[str]:
    """Yield `dotted.field: what is wrong; remedy` for every error, in the file's order."""
    for details in error.errors(include_url=False):
        fields = [part for part in details["loc"] if not _is_tag(part)]
        dotted = ".".join(str(part) for part in fields)
        text = _text(details, _at(data, fields[:-1]), context)
        yield f"{dotted}: {text}" if dotted else text


def _is_tag(part: int | str) -> bool:
    """Pydantic's path also has the tags of union members and "[key]", which are not in the file."""
    return isinstance(part, str) and part.startswith(("<", "["))


def _at(data: object, fields: list[int | str]) -> object:
    for part in fields:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _text(details: ErrorDetails, parent: object, context: LoadContext) -> str:
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        return _unknown_key(str(details["loc"][-1]), context.known_keys.get(id(parent), ()))
    if kind == "missing":
        return "is required; add it"
    if kind == OWN_WORDS:
        return details["msg"]
    if kind == "value_error":
        return str(details.get("ctx", {}).get("error", details["msg"]))
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a block of keys, not {_brief(given)}; indent its keys below it"
    message = details["msg"].removeprefix("Input ").removeprefix("String ")
    return f"{message[0].lower()}{message[1:]}; it is {_brief(given)}, correct it"


def _unknown_key(key: str, known: tuple[str, ...]) -> str:
    renamed = [new for old, new in RENAMED_KEYS.items() if old == key and new in known]
    close = renamed or difflib.get_close_matches(key, known, n=1)
    if close:
        return f"unknown key; did you mean '{close[0]}'?"
    return f"unknown key; remove it, or use one of: {', '.join(known)}"


def _brief(value: object) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
