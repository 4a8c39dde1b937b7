"""Probes: the smallest question there is, to whichever replica Serve chooses or to one that is suspect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import aclosing
from contextvars import Context
from dataclasses import replace as changed
from typing import Any, TypeVar

from deployments.adapter_replicas import AdapterReplicas
from deployments.remote import Deployed
from deployments.replicas import ReplicaSet, probe_id
from router.errors import ModelStalled, ModelUnavailable, RouterError
from router.model import Ask, Finish, Message, Prompt, Sampling

logger = logging.getLogger(__name__)

T = TypeVar("T")

PROBE = Ask(
    request_id=probe_id(),
    prompt=Prompt(messages=(Message("user", "ping"),)),
    sampling=Sampling(temperature=0.0),
    max_tokens=1,
)
# Between two questions to a suspect; where nobody else answers, the shortest of the long ones.
MIN_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
MAX_PAUSE_ALONE_S = 2.0


async def ask(
    model: Deployed, limit_s: float, replica: str | None = None, *, adapter: str | None = None
) -> None:
    """Returns when the model has answered, with the adapter.

    Raises:
        ModelStalled: not within `limit_s`; whoever had the question is suspect.
        RouterError: what `Model.stream` raises.
    """
    probe = changed(PROBE, request_id=probe_id(replica), adapter=adapter)
    try:
        async with asyncio.timeout(limit_s), aclosing(model.stream(probe)) as pieces:
            async for piece in pieces:
                if piece.finish is Finish.CANCELLED:
                    break  # a replica that shuts down
                if piece.finish:
                    return
    except TimeoutError as error:
        model.replicas.stalled(probe.request_id)
        raise ModelStalled(f"no answer within {limit_s:g} s") from error
    raise ModelUnavailable("the stream ended without an answer")


class Clearing:
    """Asks each suspect of a model, in a task of its own, until it answers or is gone."""

    def __init__(self, adapter: str | None = None) -> None:
        self._adapter = adapter
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def look(self, model: Deployed, limit_s: float) -> None:
        """Begin with those that became suspect meanwhile."""
        for replica in model.replicas.for_calls_of(self._adapter).suspects - self._tasks.keys():
            self._tasks[replica] = start(self._ask_until_clear(model, replica, limit_s), f"clear {replica}")

    def close(self) -> list[asyncio.Task[None]]:
        """Stop asking; returns what is left to wait for."""
        for task in self._tasks.values():
            task.cancel()
        return list(self._tasks.values())

    async def _ask_until_clear(self, model: Deployed, replica: str, limit_s: float) -> None:
        pause_s = MIN_PAUSE_S
        replicas = model.replicas.for_calls_of(self._adapter)
        try:
            while replica in replicas.suspects:
                try:
                    await ask(model, limit_s, replica, adapter=self._adapter)
                except RouterError as error:
                    logger.info("replica %s does not answer yet: %s", replica, error)
                await _pause(replicas, replica, pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        finally:
            del self._tasks[replica]


def start(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Run work that belongs to no request: what begins in the context of one, Serve cancels with that one."""
    return asyncio.create_task(work, name=name, context=Context())


async def _pause(replicas: ReplicaSet | AdapterReplicas, suspect: str, pause_s: float) -> None:
    """In small steps, for meanwhile the suspect may be cleared, or be the only one that is left."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while suspect in replicas.suspects:
        if clock() - began >= (pause_s if replicas.healthy else min(pause_s, MAX_PAUSE_ALONE_S)):
            return
        await asyncio.sleep(MIN_PAUSE_S)
