"""The form of requests and chunks between a router and a replica, which may run different releases.

A message has the format's number, and each value that is not a field's default by the name of the field.
Classes are named too, so no release has to import a class of another one.

- A request with a field or class that the replica does not know is refused, because it cannot be answered as
  asked. The router tries another replica.
- A chunk may have fields that the router does not know, because the router has not asked for them. A class
  that it does not know is an error.

A new field needs no new format, if its default is what earlier releases do. A field that gets another meaning
or another default needs one, in two releases: the first one reads the new format too, and the next one writes
it. So no release reads what it would misunderstand.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, TypeVar

from experts.engine import chunk, request, routing_report, tasks
from experts.errors import OtherRelease

FORMAT = 1  # that is written
READABLE = frozenset({FORMAT})

Message = tuple[int, list[Any]]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as an argument of a Serve handle. The choice of a replica reads it, and the replica gets a
    `Message` in its place."""

    request: request.EngineRequest

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[Message]]:
        return tuple, (pack(self.request),)


def pack(value: request.EngineRequest | chunk.EngineChunk) -> Message:
    return FORMAT, _pack(value)


def unpack_request(message: Message) -> request.EngineRequest:
    """Raises OtherRelease if another release sent something that this one does not know."""
    return _unpack(message, request.EngineRequest, takes_unknown_fields=False)


def unpack_chunk(message: Message) -> chunk.EngineChunk:
    """Raises OtherRelease; see `unpack_request`."""
    return _unpack(message, chunk.EngineChunk, takes_unknown_fields=True)


# All that may be sent, by name.
CLASSES: dict[str, type[Any]] = {
    each.__name__: each
    for each in (
        *(request.EngineRequest, request.Resumed, request.SamplingOptions, request.ChatOptions),
        *(request.Grammar, tasks.Tokenize, tasks.Detokenize, tasks.Embed),
        *(chunk.EngineChunk, chunk.TextPart, chunk.ReasoningPart, chunk.ToolCallPart),
        *(chunk.TokenLogprobs, chunk.Alternative, tasks.TokenizedPrompt),
        *(routing_report.RoutingReport, routing_report.Candidates, routing_report.ShadowWin),
    )
}
# Strings of their own type, which arrive as plain strings.
_ENUMS = {("EngineChunk", "finish"): chunk.FinishReason, ("Grammar", "kind"): request.GrammarKind}

_ENUM_TYPES = tuple(_ENUMS.values())


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


# By class, the default of each field; MISSING if it has none.
_DEFAULTS = {kind: {field.name: _default(field) for field in fields(kind)} for kind in CLASSES.values()}


def _pack(value: Any) -> list[Any]:
    """[name of the class, {field: value}]; no field holds a list itself."""
    changed: dict[str, Any] = {}
    for name, default in _DEFAULTS[type(value)].items():
        held = getattr(value, name)
        if held is default or held == default:
            continue
        if type(held) in _DEFAULTS:
            held = _pack(held)
        elif type(held) is tuple and held and type(held[0]) in _DEFAULTS:
            held = tuple(map(_pack, held))
        changed[name] = held.value if isinstance(held, _ENUM_TYPES) else held
    return [type(value).__name__, changed]


def _unpack(message: Message, kind: type[Value], *, takes_unknown_fields: bool) -> Value:
    if not isinstance(message, tuple):  # a release before the first format sent its own classes
        raise OtherRelease(type(message).__name__)
    number, packed = message
    if number not in READABLE:
        raise OtherRelease(f"format {number} of messages")
    value = _value(packed, takes_unknown_fields)
    if not isinstance(value, kind):
        raise OtherRelease(packed[0])
    return value


def _value(packed: list[Any], takes_unknown_fields: bool) -> Any:
    name, given = packed
    kind = CLASSES.get(name)
    if kind is None:
        raise OtherRelease(name)
    known: dict[str, Any] = {}
    for field, value in given.items():
        if field not in _DEFAULTS[kind]:
            if takes_unknown_fields:
                continue
            raise OtherRelease(f"{name}.{field}")
        if type(value) is list:
            value = _value(value, takes_unknown_fields)
        elif type(value) is tuple and value and type(value[0]) is list:
            value = tuple(_value(each, takes_unknown_fields) for each in value)
        known[field] = _enum(name, field, value) if (name, field) in _ENUMS else value
    return _made(kind, known)


def _enum(kind: str, field: str, value: str) -> Any:
    try:
        return _ENUMS[kind, field](value)
    except ValueError as error:
        raise OtherRelease(f"{kind}.{field} {value!r}") from error


def _made(kind: type[Any], known: dict[str, Any]) -> Any:
    try:
        return kind(**known)
    except TypeError as error:  # a field without a default, which the sender does not have any more
        raise OtherRelease(f"{kind.__name__} without all of its fields") from error
