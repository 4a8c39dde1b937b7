"""A fake of `ModelAvailability`: which models answer, and how those that are asleep start."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from router.availability import ModelState
from router.errors import ModelUnavailable, RouterError, WakeFailed
from tests.fakes.models import EXPERTS, Pause, pause


@dataclass
class FakeRoutes:
    """The models in `ready` answer.

    `starts` has, for each model that is asleep, how long its start takes or how it fails. `returns` has the
    same for each model that is unavailable. All other models are masked. A test may change every part while
    an answer is written. `stalls` has the model and the request id of each call reported as stalled.
    `answered` says how many calls of each model were answered; those in `broken` answer nothing else either.
    """

    ready: Collection[str] = EXPERTS
    starts: Mapping[str, Pause | RouterError] = field(default_factory=dict)
    returns: Mapping[str, Pause | RouterError] = field(default_factory=dict)
    num_starts: Counter[str] = field(default_factory=Counter)
    stalls: list[tuple[str, str]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    broken: Collection[str] = ()
    num_probes: int = 0
    _starting: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def state(self, name: str) -> ModelState:
        if name in self.ready:
            return ModelState.READY
        if name in self.returns:
            return ModelState.UNAVAILABLE
        if name in self._starting:
            return ModelState.WAKING
        return ModelState.ASLEEP if name in self.starts else ModelState.MASKED

    def wake(self, name: str) -> None:
        if name in self._starting or self.state(name) not in (ModelState.ASLEEP, ModelState.UNAVAILABLE):
            return
        self.num_starts[name] += 1
        self._starting[name] = asyncio.create_task(self._start(name))

    async def wait_until_ready(self, name: str) -> None:
        self.wake(name)
        if self.state(name) is ModelState.MASKED:
            raise ModelUnavailable(f"there is no {name}")
        if name in self._starting:
            start = self._starting[name]
            await asyncio.wait({start})
            start.result()

    def stalled(self, name: str, request_id: str) -> None:
        self.stalls.append((name, request_id))

    def num_answered(self, name: str) -> int:
        return self.answered[name]

    async def answers(self, name: str) -> bool:
        self.num_probes += 1
        return name not in self.broken

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
            del self._starting[name]
