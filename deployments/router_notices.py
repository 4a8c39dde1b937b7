"""What one router tells the other replicas of itself. No request waits for it, and none fails with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from deployments.load_reports import Broadcast
from deployments.probe import start
from router.errors import ModelUnavailable

logger = logging.getLogger(__name__)


class RouterNotices:
    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self._tasks: set[asyncio.Task[None]] = set()

    def quarantine(self, digest: str) -> None:
        self._send("a quarantined prompt", self._broadcast.quarantine(digest))

    def turn_authors(self, turns: Mapping[str, str]) -> None:
        self._send("the authors of turns", self._broadcast.turn_authors(turns))

    async def close(self) -> None:
        """Give up what is not sent yet."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _send(self, what: str, message: Coroutine[Any, Any, None]) -> None:
        task = start(_sent(what, message), "notify routers")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _sent(what: str, message: Coroutine[Any, Any, None]) -> None:
    try:
        await message
    except ModelUnavailable as error:
        logger.warning("%s could not be sent to the other routers: %s", what, error)
