"""When what happened to an answer, written down by every process that it passes, all by one clock."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Events = Mapping[str, float]


class Stamps:
    """A file of this process in the folder that all share."""

    def __init__(self, folder: str) -> None:
        self._fd = os.open(Path(folder, f"{os.getpid()}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def put(self, request_id: str, event: str, value_s: float | None = None) -> None:
        """`value_s` None: now."""
        now_s = time.monotonic() if value_s is None else value_s
        os.write(self._fd, f"{json.dumps([request_id, event, now_s])}\n".encode())


def read_stamps(folder: Path) -> dict[str, dict[str, float]]:
    """By request, then by event."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            request_id, event, value_s = json.loads(line)
            found[request_id][event] = value_s
    return found


@dataclass(frozen=True)
class Way:
    """The expert's first token, and what came before it, in seconds; `prefill_s` is the expert's own work.

    `told_s`: the decision on its way to the router. `turned_s`: in the router, until the expert is called.
    `sent_s`: that call on its way. `read_s`: in the expert's engine, until the prompt is begun with.
    `back_s`: the first token on its way to the router. An expert that is addressed directly has no first two.
    """

    told_s: float
    turned_s: float
    sent_s: float
    read_s: float
    prefill_s: float
    back_s: float

    @classmethod
    def of(cls, events: Events) -> Way:
        """Raises KeyError: this answer did not come from an expert."""
        sent_s, called_s, made_s = events["sent"], events["called"], events["made"]
        decided_s = events.get("decided", sent_s)
        told_s = events.get("told", sent_s)
        return cls(
            told_s=told_s - decided_s,
            turned_s=sent_s - told_s,
            sent_s=called_s - sent_s,
            read_s=made_s - called_s - events["prefill"],
            prefill_s=events["prefill"],
            back_s=events["heard"] - made_s,
        )

    @property
    def gap_s(self) -> float:
        """All but the expert's own work."""
        return sum(value_s for _, value_s in self.parts())

    def parts(self) -> Iterator[tuple[str, float]]:
        yield "decision to the router", self.told_s
        yield "in the router", self.turned_s
        yield "call to the expert", self.sent_s
        yield "in its engine, before the prefill", self.read_s
        yield "first token to the router", self.back_s
