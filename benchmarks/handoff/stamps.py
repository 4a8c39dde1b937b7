"""Timestamps of one answer from every process that handles it, all by the same clock."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Event(StrEnum):
    """What is timed, in order. `PREFILL` is a duration, all others are points in time."""

    DECIDED = "decided"  # the meta's engine decided to hand over
    DECISION_RECEIVED = "decision_received"  # by the router
    CALL_SENT = "call_sent"  # by the router, to the expert
    CALL_RECEIVED = "call_received"  # by the expert's replica
    FIRST_TOKEN = "first_token"  # left the expert's engine
    PREFILL = "prefill"  # of the expert's engine
    FIRST_TOKEN_RECEIVED = "first_token_received"  # by the router


class Stamps:
    """The timestamps of this process, in a file of a folder that all processes share."""

    def __init__(self, folder: str) -> None:
        self._fd = os.open(Path(folder, f"{os.getpid()}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def put(self, request_id: str, event: Event, value_s: float | None = None) -> None:
        """Record the value of an event. None: the present time."""
        now_s = time.monotonic() if value_s is None else value_s
        os.write(self._fd, f"{json.dumps([request_id, event, now_s])}\n".encode())


def read_stamps(folder: Path) -> dict[str, dict[Event, float]]:
    """The values of all processes, by request and event."""
    found: defaultdict[str, dict[Event, float]] = defaultdict(dict)
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            request_id, event, value_s = json.loads(line)
            found[request_id][Event(event)] = value_s
    return found


@dataclass(frozen=True)
class HandoffTiming:
    """The seconds before the expert's first token, by part. `prefill_s` is the expert's own work.

    `decision_s`: from the meta's engine to the router. `router_s`: in the router. `call_s`: from the router
    to the expert's replica. `queue_s`: in the expert's engine, before the prefill. `token_s`: from the
    expert's engine to the router. The first two are 0 if the expert is addressed directly.
    """

    decision_s: float
    router_s: float
    call_s: float
    queue_s: float
    prefill_s: float
    token_s: float

    @classmethod
    def of(cls, stamps: Mapping[Event, float]) -> HandoffTiming:
        """Raises KeyError if no expert wrote the answer."""
        sent_s, received_s = stamps[Event.CALL_SENT], stamps[Event.CALL_RECEIVED]
        token_s, prefill_s = stamps[Event.FIRST_TOKEN], stamps[Event.PREFILL]
        decided_s = stamps.get(Event.DECIDED, sent_s)
        decision_received_s = stamps.get(Event.DECISION_RECEIVED, sent_s)
        return cls(
            decision_s=decision_received_s - decided_s,
            router_s=sent_s - decision_received_s,
            call_s=received_s - sent_s,
            queue_s=token_s - received_s - prefill_s,
            prefill_s=prefill_s,
            token_s=stamps[Event.FIRST_TOKEN_RECEIVED] - token_s,
        )

    @property
    def gap_s(self) -> float:
        """Everything except the expert's own work."""
        return sum(value_s for _, value_s in self.parts())

    def parts(self) -> Iterator[tuple[str, float]]:
        yield "decision to the router", self.decision_s
        yield "in the router", self.router_s
        yield "call to the expert", self.call_s
        yield "in its engine, before the prefill", self.queue_s
        yield "first token to the router", self.token_s
