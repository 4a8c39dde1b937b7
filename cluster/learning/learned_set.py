"""Keeps what tokens were learned from, so that other methods can learn from the same. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.learning.state_cache import unwritable
from experts.files import write_atomic
from experts.learn.queries import Query, dataset_digest


def keep_learned_set(folder: Path, data: Sequence[Query], queries: Sequence[Query]) -> None:
    """`queries`: what was learned from, beginning with the data. Raises ConfigError."""
    rows = {
        "data": [asdict(query) for query in data],
        "queries": [asdict(query) for query in queries],
    }
    path = _file(folder, dataset_digest(queries))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(rows, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise unwritable(error) from error


def as_learned(folder: Path, data: Sequence[Query], digests: Collection[str]) -> list[Query]:
    """What tokens were learned from, if they were learned from this data; otherwise the data itself.

    `digests`: of the query sets that the tokens were learned from.
    """
    for digest in sorted(digests):
        kept, queries = _read(folder, digest)
        if kept and dataset_digest(kept) == dataset_digest(data):
            return queries
    return list(data)


def learned_data(folder: Path, digests: Collection[str]) -> list[Query]:
    """The data of the query sets with these digests, as far as they are kept; every query once."""
    found: dict[str, Query] = {}
    for digest in sorted(digests):
        for query in _read(folder, digest)[0]:
            found.setdefault(json.dumps([query.messages, query.expert]), query)
    return list(found.values())


def _read(folder: Path, digest: str) -> tuple[list[Query], list[Query]]:
    """The data and the queries; nothing if the file is missing or damaged."""
    try:
        rows = json.loads(_file(folder, digest).read_text(encoding="utf-8"))
        return [_query(row) for row in rows["data"]], [_query(row) for row in rows["queries"]]
    except (OSError, ValueError, KeyError, TypeError):
        return [], []


def _file(folder: Path, digest: str) -> Path:
    return folder / f"learned-{digest}.json"


def _query(row: dict[str, Any]) -> Query:
    return Query(**row | {"messages": tuple(row["messages"]), "choices": tuple(row["choices"])})
