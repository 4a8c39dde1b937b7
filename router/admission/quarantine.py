"""Poison requests: a prompt that kills replicas of a model is blocked for that model, in every router."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b

from router.errors import PoisonRequest
from router.prompt import Prompt

QUARANTINE_TTL_S = 600.0
MAX_QUARANTINED = 1024
# How long a suspect prompt waits for the one before it. The limit matters if that one's replica hangs.
SUSPECT_WAIT_S = 2.0


class Quarantine:
    """Remembers digests, never prompts.

    `on_add` is called with every entry found by this router, so that it can be sent to the other routers.
    """

    def __init__(
        self, on_add: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_add = on_add
        self._clock = clock
        self._suspect_locks: dict[str, asyncio.Lock] = {}
        self._expires_s: OrderedDict[str, float] = OrderedDict()  # all have the same TTL: oldest first

    def add(self, app: str, prompt: Prompt) -> None:
        """Block `prompt` for the application `app` for `QUARANTINE_TTL_S`."""
        entry = _entry(app, _digest(prompt))
        self.learn(entry)
        if self._on_add is not None:
            self._on_add(entry)

    def learn(self, entry: str) -> None:
        """Add an entry that another router found."""
        self._expires_s.pop(entry, None)
        self._expires_s[entry] = self._clock() + QUARANTINE_TTL_S
        if len(self._expires_s) > MAX_QUARANTINED:
            self._expires_s.popitem(last=False)

    def blocked(self, apps: Iterable[str], prompt: Prompt) -> set[str]:
        """Those of `apps` that must not get this prompt."""
        while self._expires_s and next(iter(self._expires_s.values())) <= self._clock():
            self._expires_s.popitem(last=False)
        if not self._expires_s:  # nearly always: then a long prompt need not be hashed
            return set()
        digest = _digest(prompt)
        return {app for app in apps if _entry(app, digest) in self._expires_s}

    @asynccontextmanager
    async def suspect_slot(self, app: str, *, is_suspect: bool) -> AsyncIterator[SuspectSlot]:
        """While the block runs, an application gets its suspect prompts one at a time.

        When a replica dies, every prompt it was working on is suspect. If they were retried together, they
        would kill the next replica together, and nothing would show which one did it. Release the slot at
        the first token, which clears the prompt.
        """
        slot = SuspectSlot(self._suspect_locks.setdefault(app, asyncio.Lock()))
        if is_suspect:
            await slot.take()
        try:
            yield slot
        finally:
            slot.release()


class SuspectSlot:
    """`is_only_suspect`: the application has no other suspect. If a replica dies, this prompt is to blame."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self.is_only_suspect = False
        self._lock = lock

    async def take(self) -> None:
        """Wait for the other suspects; after `SUSPECT_WAIT_S`, go on without the slot."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SUSPECT_WAIT_S):
                self.is_only_suspect = await self._lock.acquire()

    def release(self) -> None:
        """Has no effect if the slot is not held."""
        if self.is_only_suspect:
            self.is_only_suspect = False
            self._lock.release()


def poison_error(model: str) -> PoisonRequest:
    return PoisonRequest(
        f"this prompt crashed several replicas of {model} and is blocked for it for about "
        f"{QUARANTINE_TTL_S / 60:.0f} minutes; change the prompt"
    )


def _entry(app: str, digest: str) -> str:
    return f"{app}:{digest}"


def _digest(prompt: Prompt) -> str:
    return blake2b(repr(prompt).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
