"""Change values of a cluster.yaml, one process at a time. The result is checked before it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.api_keys import check_keys_file
from cluster.config.cluster_config import check_config
from cluster.errors import ConfigError
from cluster.yaml_files.editor import with_value, without_member
from cluster.yaml_files.locked_edit import edit_file
from cluster.yaml_files.reader import parse_yaml, read_text


def add_expert(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Add an expert to the file, after the others.

    Raises:
        ConfigError: the file has an expert of that name, or as `set_values`.
    """
    edit_file(path, lambda: _checked(path, with_expert(path, name, entry)))


def remove_expert(path: Path, name: str) -> None:
    """Remove an expert from the file.

    Raises:
        ConfigError: the file has no such expert, an API key names it, or as `set_values`.
    """
    edit_file(path, lambda: _checked(path, without_expert(path, name)))


def set_value(path: Path, keys: Sequence[str], value: Any) -> None:
    """`set_values` for one value."""
    set_values(path, {tuple(keys): value})


def set_values(path: Path, values: Mapping[Sequence[str], Any]) -> None:
    """Set the value under each of the nested keys; blocks that are missing are added.

    Raises:
        ConfigError: the result is not a valid cluster.yaml, cannot be written, or a value stands where it
            cannot be edited safely.
    """

    def edit() -> str:
        text = read_text(path)
        for keys, value in values.items():
            text = with_value(text, path, keys, value)
        return _checked(path, text)

    edit_file(path, edit)


def with_expert(path: Path, name: str, entry: Mapping[str, Any]) -> str:
    """The file's text with the expert added, unchecked. Raises ConfigError."""
    text = read_text(path)
    if name in _experts(text, path):
        raise ConfigError([f"{path}: experts.{name}: exists already; choose another name or remove it first"])
    return with_value(text, path, ("experts", name), entry)


def without_expert(path: Path, name: str) -> str:
    """The file's text with the expert removed, unchecked. Raises ConfigError."""
    text = read_text(path)
    experts = _experts(text, path)
    if name not in experts:
        known = ", ".join(map(str, experts)) or "none"
        raise ConfigError([f"{path}: experts.{name}: there is no such expert; experts: {known}"])
    # A key with nothing below it is not a valid block, so the last expert takes `experts` with it.
    return without_member(text, path, ("experts", name) if len(experts) > 1 else ("experts",))


def _experts(text: str, path: Path) -> Mapping[str, Any]:
    data = parse_yaml(text, path)
    experts = data.get("experts") if isinstance(data, Mapping) else None
    return experts if isinstance(experts, Mapping) else {}


def _checked(path: Path, text: str) -> str:
    check_keys_file(check_config(parse_yaml(text, path), path))
    return text
