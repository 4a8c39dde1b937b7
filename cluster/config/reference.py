"""The reference of cluster.yaml: a JSON Schema for editors, and Markdown for the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.config.cluster_config import ClusterConfig

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ROOT = "ClusterConfig"
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_INTRODUCTION = """\
# cluster.yaml

Generated from the code. `etr schema` prints the same as a JSON Schema, for editors. NAME stands for the name
of an expert, a pool or an embedding model. A key that ends in `_s` is in seconds, one that ends in `_bytes`
in bytes. An unknown key is an error.
"""


def config_schema() -> Schema:
    """The JSON Schema of cluster.yaml (draft 2020-12), as the file is written: with unresolved paths."""
    schema = ClusterConfig.model_json_schema()
    blocks = {name: _cleaned_block(block) for name, block in schema.pop("$defs").items()}
    return {"$schema": _DIALECT, **_cleaned_block(schema), "$defs": blocks}


def config_reference() -> str:
    """Markdown: a section for each block, with a table of its keys."""
    schema = config_schema()
    blocks: dict[str, Schema] = {_ROOT: schema, **schema["$defs"]}
    places: dict[str, list[str]] = {}
    _collect_places(_ROOT, "", blocks, places)
    sections = [_section(blocks[name], blocks, found) for name, found in places.items()]
    return "\n".join([_INTRODUCTION, *sections])


def _cleaned_block(block: Schema) -> Schema:
    properties = {key: _cleaned_field(field) for key, field in block["properties"].items()}
    return {**block, "description": _one_line(block.get("description", "")), "properties": properties}


def _cleaned_field(field: Schema) -> Schema:
    """Without titles, which repeat the key, and without defaults that are null or repeat those of a block."""
    dropped = {"title"}
    if field.get("default") is None or "$ref" in field:
        dropped.add("default")
    if field.get("format") == "path":  # not a format of JSON Schema
        dropped.add("format")
    return {key: value for key, value in field.items() if key not in dropped}


def _collect_places(
    name: str, place: str, blocks: Mapping[str, Schema], places: dict[str, list[str]]
) -> None:
    """Fill `places`: for each block the dotted keys where it can stand, in the order of the file."""
    found = places.setdefault(name, [])
    if place not in found:
        found.append(place)
    for key, field in blocks[name]["properties"].items():
        for block, suffix in _blocks_of(field):
            _collect_places(block, f"{place}.{key}{suffix}".lstrip("."), blocks, places)


def _blocks_of(field: Schema, suffix: str = "") -> Iterator[tuple[str, str]]:
    """The blocks that a field can hold, each with the keys between: `.NAME` in a mapping, `[]` in a list."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2], suffix
    for choice in [*field.get("anyOf", ()), *field.get("oneOf", ())]:
        yield from _blocks_of(choice, suffix)
    if "items" in field:
        yield from _blocks_of(field["items"], f"{suffix}[]")
    for value in _values_of(field):
        yield from _blocks_of(value, f"{suffix}.NAME")


def _values_of(field: Schema) -> list[Schema]:
    """The schemas of the values of a mapping."""
    values = [*field.get("patternProperties", {}).values(), field.get("additionalProperties")]
    return [value for value in values if isinstance(value, dict)]


def _section(block: Schema, blocks: Mapping[str, Schema], places: list[str]) -> str:
    at = f"At {', '.join(f'`{place}`' for place in places)}. " if places != [""] else ""
    rows = [_row(key, field, block, blocks) for key, field in block["properties"].items()]
    return "\n".join(
        [
            f"## {block['title']}" if at else "## Top level",
            "",
            f"{at}{block['description']}",
            "",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _row(key: str, field: Schema, block: Schema, blocks: Mapping[str, Schema]) -> str:
    default = f"`{_one_line(_value(field['default']))}`" if field.get("default") not in (None, {}, []) else ""
    if key in block.get("required", ()):
        default = "required"
    # A field whose text equals that of its block has none of its own.
    meaning = field.get("description") or next(blocks[name]["description"] for name, _ in _blocks_of(field))
    cells = (f"`{key}`", _type(field, blocks), default, _one_line(meaning))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _type(field: Schema, blocks: Mapping[str, Schema]) -> str:
    if "$ref" in field:
        title = blocks[field["$ref"].rpartition("/")[2]]["title"]
        return f"[{title}](#{_anchor(title)})"
    choices = [
        choice for choice in [*field.get("anyOf", ()), *field.get("oneOf", ())] if not _is_null(choice)
    ]
    if choices:
        return " or ".join(_type(choice, blocks) for choice in choices)
    if "const" in field:
        return f"`{_value(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{_value(choice)}`" for choice in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'], blocks)}"
    if field["type"] == "object":
        values = " or ".join(_type(value, blocks) for value in _values_of(field))
        return f"mapping to {values}" if values else "mapping"
    bounds = [f"{sign} {field[bound]:,}" for bound, sign in _BOUNDS.items() if bound in field]
    return ", ".join([f"{field['type']} {bounds[0]}" if bounds else field["type"], *bounds[1:]])


def _is_null(field: Schema) -> bool:
    return field.get("type") == "null"


def _value(value: Any) -> str:
    """The value as YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _anchor(title: str) -> str:
    """The anchor that MkDocs and GitHub give to a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def _one_line(text: str) -> str:
    return " ".join(text.split())
