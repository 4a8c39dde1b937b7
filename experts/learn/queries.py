"""Query sets: what people ask, and which expert should answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.errors import DataError
from experts.prompt import ROLES
from experts.token import EXPERT_NAME

_NUM_LISTED = 5


@dataclass(frozen=True)
class Query:
    """One conversation up to an open assistant turn, in which `written` stands already.

    With an `expert`, its token is the target right after `written`. Without one nothing is handed over:
    `written`, if there is any, is the whole answer, and the end of the turn is its last target.
    """

    messages: tuple[Mapping[str, str], ...]
    written: str
    expert: str | None
    line: int


def read_queries(path: Path | str) -> list[Query]:
    """Reads chat JSONL: `{"messages": [{"role": …, "content": …}, …], "expert": "roman"}` a line.

    `"expert": null` means no hand-over; an assistant message at the end is what the meta itself writes.
    Raises DataError for a missing or empty file, and for broken lines, giving their numbers and how many.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; give a JSONL file in UTF-8") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    queries, problems = [], []
    for number, line in numbered:
        try:
            queries.append(_parse(line, number))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise DataError(broken_lines(path, problems, len(numbered)))
    if not queries:
        raise DataError(f"{path}: holds no queries; write one JSON object a line")
    return queries


def broken_lines(path: Path | str, problems: Sequence[str], num_lines: int) -> str:
    """One line that names the first few problems and counts the rest."""
    listed = "; ".join(problems[:_NUM_LISTED])
    more = f"; and {len(problems) - _NUM_LISTED} more" if len(problems) > _NUM_LISTED else ""
    return f"{path}: {len(problems)} of {num_lines} lines are broken; correct or remove them: {listed}{more}"


def dataset_digest(queries: Iterable[Query]) -> str:
    """16 hex digits over what is learned from: messages, written text and expert of each query, in order."""
    digest = hashlib.sha256()
    for query in queries:
        content = [[dict(message) for message in query.messages], query.written, query.expert]
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def _parse(line: str, number: int) -> Query:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if "expert" not in row:
        raise ValueError("no key 'expert' (implicit query sets need reference answers: not built yet)")
    expert = row["expert"]
    if expert is not None and not (isinstance(expert, str) and EXPERT_NAME.fullmatch(expert)):
        raise ValueError(f"expert {expert!r} is no expert name; use {EXPERT_NAME.pattern} or null")
    messages = _messages(row.get("messages"))
    written = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    if not messages:
        raise ValueError("messages hold nothing but the answer")
    return Query(tuple(messages), written, expert, number)


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
