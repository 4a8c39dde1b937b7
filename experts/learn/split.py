"""Splits queries into those to learn from and those held out to judge by."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

from experts.errors import DataError
from experts.learn.queries import Origin, Query


def split_queries(queries: Sequence[Query], held_out_share: float) -> tuple[list[int], list[int]]:
    """Indices (to learn from, held out), both ascending, with the same share of every expert's queries and of
    the general ones.

    Decided by the messages alone: the order of the file does not matter, and a question that occurs twice is
    never on both sides. An expert with two different questions has one on each side. The data is split as it
    would be alone, then the questions of the meta. Paraphrases are never held out.
    Raises DataError if the share is not in [0, 1).
    """
    if not 0 <= held_out_share < 1:
        raise DataError(f"held-out share {held_out_share:g} is not in [0, 1); give 0.2 for a fifth")
    groups: dict[tuple[str | None, Origin], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, query in enumerate(queries):
        if query.origin != "paraphrase":
            groups[query.expert, query.origin][_key(query)].append(index)
    held_out: set[int] = set()
    for by_key in groups.values():
        kept_back = sorted(by_key)[: _num_held_out(len(by_key), held_out_share)]
        held_out.update(index for key in kept_back for index in by_key[key])
    return [i for i in range(len(queries)) if i not in held_out], sorted(held_out)


def _num_held_out(size: int, share: float) -> int:
    if share == 0 or size == 1:
        return 0
    return min(max(1, round(share * size)), size - 1)


def _key(query: Query) -> str:
    content = json.dumps([dict(message) for message in query.messages], sort_keys=True)
    return blake2b(content.encode(), digest_size=8).hexdigest()
