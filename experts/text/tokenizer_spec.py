"""What the stages of a tokenizer are, as its tokenizer.json describes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_SEQUENCES = ("normalizers", "pretokenizers", "decoders")


def spec(stage: Any) -> Any:
    """The JSON object of a normaliser, pre-tokenizer or decoder; None if the tokenizer has none."""
    return None if stage is None else json.loads(stage.__getstate__())


def steps(stage: Any) -> Iterator[dict[str, Any]]:
    """The JSON objects of the steps that a stage consists of, one after another."""
    found = spec(stage)
    yield from _flat(found) if found else ()


def _flat(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if found["type"] != "Sequence":
        yield found
        return
    for key in _SEQUENCES:
        for inner in found.get(key, ()):
            yield from _flat(inner)
