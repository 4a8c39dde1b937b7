"""When all that was taken is free again: engines' slots and routers' calls, as /stats tells of them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

POLL_S = 0.1
TIMEOUT_S = 30.0


async def freed_s(http: httpx.AsyncClient, since_s: float, timeout_s: float = TIMEOUT_S) -> float:
    """Seconds after `since_s`, of time.monotonic(), until nobody wrote or waited; by one router, whichever
    answers, nobody holds a slot of a model either.

    A router looks once a second at the most, so this may be most of a second too much.

    Raises:
        TimeoutError: something is still held; the message has the last look.
    """
    stats: dict[str, Any] = {}
    while time.monotonic() < since_s + timeout_s:
        stats = (await http.get("/stats")).raise_for_status().json()
        models = stats["models"].values()
        looks_s = [one["time_s"] for model in models if model for one in model["replicas"]]
        # The clock of every process of a machine is the same, so a look from before does not count.
        if is_all_idle(stats) and min(looks_s) >= since_s:
            return float(max(looks_s)) - since_s
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"not idle after {timeout_s:g} s: {stats}")


def is_all_idle(stats: dict[str, Any]) -> bool:
    lines = stats["admission"].values()
    return all(map(is_idle, stats["models"].values())) and not any(
        line["num_running"] or line["num_waiting"] for line in lines
    )


def is_idle(model: dict[str, Any] | None) -> bool:
    return model is not None and model["num_running"] == model["num_queued"] == 0
