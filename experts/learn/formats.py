"""Reading query sets from the formats people have: chat JSONL, Alpaca-style instructions, ShareGPT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experts.errors import DataError
from experts.learn.queries import Query, broken_lines
from experts.names import EXPERT_NAME
from experts.prompt import ROLES


def read_queries(path: Path | str) -> list[Query]:
    """Reads one JSON object a line: `{"messages": [{"role": …, "content": …}, …], "expert": "roman"}`.

    `"expert": null` means no hand-over; an assistant message at the end is the reference answer.
    Raises DataError for a missing or empty file, and for broken lines, giving their numbers and how many.
    """
    rows = list(_rows(Path(path)))
    queries, problems = [], []
    for place, text in rows:
        try:
            queries.append(_parse(text, place))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise DataError(broken_lines(path, problems, len(rows)))
    if not queries:
        raise DataError(f"{path}: holds no queries; write one JSON object a line")
    return queries


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; give a JSONL file in UTF-8") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", line


def _parse(text: str, place: str) -> Query:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    expert = row.get("expert")
    if expert is not None and not (isinstance(expert, str) and EXPERT_NAME.fullmatch(expert)):
        raise ValueError(f"expert {expert!r} is no expert name; use {EXPERT_NAME.pattern} or null")
    messages = _messages(row.get("messages"))
    turn = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    if not messages:
        raise ValueError("messages hold nothing but the answer")
    written = row.get("written", "")
    return Query(
        tuple(messages),
        expert,
        written,
        turn.removeprefix(written),
        answer=row.get("answer"),
        labelled="expert" in row,
        place=place,
    )


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ValueError("no list 'messages'")
    return [_message(message) for message in value]


def _message(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or value.get("role") not in ROLES:
        raise ValueError(f"a message has no role of {', '.join(ROLES)}")
    if not isinstance(value.get("content"), str):
        raise ValueError("a message has no text content")
    return {"role": value["role"], "content": value["content"]}
