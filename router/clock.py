"""The router's clock: that of the event loop, which tests can advance at will."""

from __future__ import annotations

import asyncio


def now_s() -> float:
    """The running event loop's monotonic time in seconds."""
    return asyncio.get_running_loop().time()
