"""Prompts that took replicas down: they are kept from the model that they killed, in every router."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b

from router.errors import PoisonRequest
from router.model import Prompt

KEEP_S = 600.0
MAX_ENTRIES = 1024
APART_S = 2.0  # how long a suspect waits for the one before it; more would be felt where a replica hangs


class Quarantine:
    """Remembers digests, never prompts. `on_add` hears of what was found here, to tell the other routers."""

    def __init__(
        self, on_add: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_add = on_add
        self._clock = clock
        self._turns: dict[str, asyncio.Lock] = {}
        self._ends: OrderedDict[str, float] = OrderedDict()  # every entry stays equally long: oldest first

    def add(self, model: str, prompt: Prompt) -> None:
        """`prompt` is not to reach `model` again for `KEEP_S`."""
        entry = _entry(model, _digest(prompt))
        self.learn(entry)
        if self._on_add is not None:
            self._on_add(entry)

    def learn(self, entry: str) -> None:
        """What another router found."""
        self._ends.pop(entry, None)
        self._ends[entry] = self._clock() + KEEP_S
        if len(self._ends) > MAX_ENTRIES:
            self._ends.popitem(last=False)

    @asynccontextmanager
    async def watched(self, model: str, *, is_suspect: bool) -> AsyncIterator[Turn]:
        """Let one suspect after another at the model; each is cleared by its first token.

        All that was under way on a replica that died is suspect. Together they would take the next one down
        together, and nobody could tell the one that did it from the others.
        """
        turn = Turn(self._turns.setdefault(model, asyncio.Lock()))
        if is_suspect:
            await turn.take()
        try:
            yield turn
        finally:
            turn.pass_on()

    def barred(self, models: Iterable[str], prompt: Prompt) -> set[str]:
        """Those of `models` that must not be asked."""
        while self._ends and next(iter(self._ends.values())) <= self._clock():
            self._ends.popitem(last=False)
        if not self._ends:  # nearly always, and then a long prompt need not be digested
            return set()
        digest = _digest(prompt)
        return {model for model in models if _entry(model, digest) in self._ends}


class Turn:
    """`is_alone`: no other suspect is at the model, so what happens to its replica tells something."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self.is_alone = False
        self._lock = lock

    async def take(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(APART_S):
                self.is_alone = await self._lock.acquire()

    def pass_on(self) -> None:
        if self.is_alone:
            self.is_alone = False
            self._lock.release()


def poison(model: str) -> PoisonRequest:
    return PoisonRequest(
        f"this prompt took replicas of {model} down and is kept from it for a while; change it"
    )


def _entry(model: str, digest: str) -> str:
    return f"{model}:{digest}"


def _digest(prompt: Prompt) -> str:
    return blake2b(repr(prompt).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
