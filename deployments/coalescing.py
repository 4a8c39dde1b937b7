"""Coalesces the chunks of fast models, because the cost of a stream is per message and not per token."""

from __future__ import annotations

import time
from collections.abc import Callable

from experts.engine.chunk import EngineChunk

# Shorter than a frame of a screen, so no reader notices; longer than a token of a small model on a GPU takes.
MIN_MESSAGE_GAP_S = 0.005


class Coalescer:
    """Joins chunks that come sooner than `gap_s` (at least `MIN_MESSAGE_GAP_S`) after a message.

    There is no timer: a model that wrote that fast will soon write again. The first text, the end and a
    change of the writer are sent at once.
    """

    def __init__(self, gap_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s = max(gap_s, MIN_MESSAGE_GAP_S)
        self._clock = clock
        self._sent_s = float("-inf")
        self._pending: EngineChunk | None = None

    def add(self, chunk: EngineChunk) -> EngineChunk | None:
        """The message to send now, or None if the chunk waits for the next one."""
        joined = chunk if self._pending is None else self._pending.followed_by(chunk)
        if joined.finish is None and joined.expert is None and self._clock() - self._sent_s < self._gap_s:
            self._pending = joined
            return None
        self._pending = None
        if joined.text:
            self._sent_s = self._clock()
        return joined

    def rest(self) -> EngineChunk | None:
        """What still waits when the stream ends or fails, if anything."""
        pending, self._pending = self._pending, None
        return pending
