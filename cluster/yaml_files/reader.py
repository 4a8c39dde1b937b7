"""Read one YAML file into plain data. A key that is given twice is an error here, unlike in YAML itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError

_NOT_TEXT = "{path}: is not a UTF-8 text file; save it as UTF-8 text"


def read_yaml(path: Path) -> Any:
    """Parse the file with YAML's safe types only.

    Raises:
        ConfigError: not readable, not YAML (with the line), or a key given twice.
    """
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, path: Path) -> Any:
    """`read_yaml` for a `text` that `path` has or is about to get."""
    try:
        # Refuses control characters. The parser would report them without a line.
        yaml.reader.Reader(text)
    except yaml.reader.ReaderError as error:
        raise ConfigError([_NOT_TEXT.format(path=path)]) from error
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        duplicates = [f"{path}: {problem}" for problem in _duplicates(root, (), set())] if root else []
        if duplicates:
            raise ConfigError(duplicates)
        return loader.construct_document(root) if root else None
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(path, error)]) from error
    finally:
        loader.dispose()


def read_text(path: Path) -> str:
    """The file's text with its own line endings. Raises ConfigError."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: no such file; name the cluster.yaml to use"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}; name a readable file"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([_NOT_TEXT.format(path=path)]) from error


def _syntax_problem(path: Path, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
    return f"{path}: {where}: not valid YAML: {error.problem}; correct that line"


def _duplicates(node: yaml.Node, fields: tuple[str, ...], seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias, possibly of a node that contains it
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicates(item, fields, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines and name != "<<":
            yield _duplicate_problem(fields, name, lines[name], line)
        lines.setdefault(name, line)
        yield from _duplicates(value, (*fields, name), seen)


def _duplicate_problem(fields: tuple[str, ...], name: str, first_line: int, line: int) -> str:
    if fields == ("experts",):
        return f"experts: two experts are named '{name}' (lines {first_line} and {line}); rename one"
    return f"{'.'.join((*fields, name))}: is given twice (lines {first_line} and {line}); remove one"
