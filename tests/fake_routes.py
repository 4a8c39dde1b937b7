"""Fakes of the router's second port: which models answer, and how those that sleep come up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from router.errors import ModelUnavailable, RouterError, WakeFailed
from router.routes import State
from tests.fakes import EXPERTS, Pause, pause


@dataclass
class FakeRoutes:
    """`ready` answer. `starts` says of each that sleeps how long it takes to come up, or why it does not;
    `returns` says so of each that is away, from when somebody waits for it.

    What none of these names is masked. Every part may change while an answer is written. `stalls` has the
    model and the request id of each call that a replica was said to have left lying.
    """

    ready: Collection[str] = EXPERTS
    starts: Mapping[str, Pause | RouterError] = field(default_factory=dict)
    returns: Mapping[str, Pause | RouterError] = field(default_factory=dict)
    num_starts: Counter[str] = field(default_factory=Counter)
    stalls: list[tuple[str, str]] = field(default_factory=list)
    _under_way: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def state(self, name: str) -> State:
        if name in self.ready:
            return State.READY
        if name in self.returns:
            return State.AWAY
        if name in self._under_way:
            return State.WAKING
        return State.ASLEEP if name in self.starts else State.MASKED

    def wake(self, name: str) -> None:
        if name in self._under_way or self.state(name) not in (State.ASLEEP, State.AWAY):
            return
        self.num_starts[name] += 1
        self._under_way[name] = asyncio.create_task(self._start(name))

    async def awake(self, name: str) -> None:
        self.wake(name)
        if self.state(name) is State.MASKED:
            raise ModelUnavailable(f"there is no {name}")
        if name in self._under_way:
            start = self._under_way[name]
            await asyncio.wait({start})
            start.result()

    def stalled(self, name: str, request_id: str) -> None:
        self.stalls.append((name, request_id))

    def num_slots(self, name: str) -> int:
        return 64

    def max_slots(self, name: str) -> int:
        return 64

    async def _start(self, name: str) -> None:
        start = self.returns.get(name) or self.starts[name]
        try:
            if isinstance(start, RouterError):
                raise WakeFailed(str(start)) from start
            await pause(start)
            self.ready = (*self.ready, name)
        finally:
            del self._under_way[name]
