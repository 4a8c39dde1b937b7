"""Waits until everything is idle: the engines' slots and the routers' calls, as `/stats` reports them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

POLL_S = 0.1
TIMEOUT_S = 30.0


async def freed_s(http: httpx.AsyncClient, since_s: float, timeout_s: float = TIMEOUT_S) -> float:
    """Seconds from `since_s` (of time.monotonic()) until no call ran or waited in any replica, nor in the
    router that answered `/stats`.

    A router refreshes its statistics at most once a second, so the result may be up to a second too long.

    Raises:
        TimeoutError: something is still running or queued. The message has the last statistics.
    """
    stats: dict[str, Any] = {}
    while time.monotonic() < since_s + timeout_s:
        stats = (await http.get("/stats")).raise_for_status().json()
        models = stats["models"].values()
        measured_s = [replica["time_s"] for model in models if model for replica in model["replicas"]]
        # All processes of a machine share one clock, so older statistics can be told apart and do not count.
        if is_all_idle(stats) and min(measured_s) >= since_s:
            return float(max(measured_s)) - since_s
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"not idle after {timeout_s:g} s: {stats}")


def is_all_idle(stats: dict[str, Any]) -> bool:
    queues = stats["admission"].values()
    return all(map(is_idle, stats["models"].values())) and not any(
        queue["num_running"] or queue["num_waiting"] for queue in queues
    )


def is_idle(model: dict[str, Any] | None) -> bool:
    return model is not None and model["num_running"] == model["num_queued"] == 0
