"""Reads decision logs: the lines of one or many router replicas, as one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError

Line = dict[str, Any]
_FILES = "decisions-*.jsonl*"


@dataclass(frozen=True)
class DecisionRecords:
    """`decisions` in the order of time; `feedback` by the id of the answer, the last word of each client.

    `num_broken` lines could not be read: a file may end in the middle of one.
    """

    decisions: Sequence[Line]
    feedback: dict[str, Line]
    num_broken: int = 0


def read_decisions(paths: Iterable[Path]) -> DecisionRecords:
    """Read files, and the log files in folders.

    Raises:
        ConfigError: one cannot be read, or a folder has none.
    """
    lines, num_broken = list[Line](), 0
    for file in _files(paths):
        for text in _read(file).split("\n"):
            line = _parsed(text)
            if line is not None:
                lines.append(line)
            elif text.strip():
                num_broken += 1
    lines.sort(key=lambda line: str(line["time"]))
    return DecisionRecords(
        [line for line in lines if line["kind"] == "decision"],
        {line["id"]: line for line in lines if line["kind"] == "feedback"},
        num_broken,
    )


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(path.glob(_FILES))
        if not found:
            raise ConfigError([f"{path}: holds no decision log; name the folder of router.decision_log"])
        yield from found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}; correct the path"]) from error


def _parsed(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    is_line = isinstance(line, dict) and {"kind", "time", "id"} <= line.keys()
    return line if is_line else None
