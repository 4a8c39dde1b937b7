"""Fewer and longer messages of whoever writes fast: each costs every process that it passes the same."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from experts.engine.base import Chunk

# Shorter than a screen's frame, so nobody sees it; longer than a token of a small model on a GPU.
MIN_GAP_S = 0.005


async def paced(
    chunks: AsyncGenerator[Chunk, None], gap_s: float = 0.0, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[Chunk, None]:
    """The same stream; what comes sooner after a message than `gap_s`, or `MIN_GAP_S`, goes with the next.

    There is no timer: who wrote that fast will soon write again. The first text and the end wait for nothing,
    and what is held when the stream fails is passed on before the error.
    """
    gap_s = max(gap_s, MIN_GAP_S)
    held: Chunk | None = None
    sent_s = float("-inf")
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                held = chunk if held is None else held.followed_by(chunk)
                if held.finish is None and clock() - sent_s < gap_s:
                    continue
                sent_s = clock() if held.text else sent_s
                sending, held = held, None
                yield sending
        except Exception:
            if held is not None:
                yield held
            raise
    if held is not None:
        yield held
