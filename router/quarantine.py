"""Prompts that took replicas down: they are kept from the model that they killed, in every router."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b

from router.model import Prompt

KEEP_S = 600.0
MAX_ENTRIES = 1024


class Quarantine:
    """Remembers digests, never prompts. `on_add` hears of what was found here, to tell the other routers."""

    def __init__(
        self, on_add: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_add = on_add
        self._clock = clock
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

    def barred(self, models: Iterable[str], prompt: Prompt) -> set[str]:
        """Those of `models` that must not be asked."""
        while self._ends and next(iter(self._ends.values())) <= self._clock():
            self._ends.popitem(last=False)
        if not self._ends:  # nearly always, and then a long prompt need not be digested
            return set()
        return {model for model in models if _digest(model, prompt) in self._ends}


def _digest(model: str, prompt: Prompt) -> str:
    return blake2b(f"{model}\0{prompt!r}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
