"""Prompts that took replicas down: they are kept from the model that they killed, in every router."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b

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
        digest = _digest(model, prompt)
        self.learn(digest)
        if self._on_add is not None:
            self._on_add(digest)

    def learn(self, digest: str) -> None:
        """What another router found."""
        self._ends.pop(digest, None)
        self._ends[digest] = self._clock() + KEEP_S
        if len(self._ends) > MAX_ENTRIES:
            self._ends.popitem(last=False)

    @asynccontextmanager
    async def watched(self, model: str, *, is_suspect: bool) -> AsyncIterator[Callable[[], None]]:
        """Let one suspect after another at the model; each is cleared by its first token.

        All that was under way on a replica that died is suspect. Together they would take the next one down
        together, and nobody could tell the one that did it from the others.
        """
        if not is_suspect:
            yield _nothing
            return
        turn = _Turn(self._turns.setdefault(model, asyncio.Lock()))
        await turn.take()
        try:
            yield turn.pass_on
        finally:
            turn.pass_on()

    def barred(self, models: Iterable[str], prompt: Prompt) -> set[str]:
        """Those of `models` that must not be asked."""
        while self._ends and next(iter(self._ends.values())) <= self._clock():
            self._ends.popitem(last=False)
        if not self._ends:  # nearly always, and then a long prompt need not be digested
            return set()
        return {model for model in models if _digest(model, prompt) in self._ends}


class _Turn:
    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._is_mine = False

    async def take(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(APART_S):
                self._is_mine = await self._lock.acquire()

    def pass_on(self) -> None:
        if self._is_mine:
            self._is_mine = False
            self._lock.release()


def _nothing() -> None:
    pass


def _digest(model: str, prompt: Prompt) -> str:
    return blake2b(f"{model}\0{prompt!r}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
