"""Probes: the smallest possible request, sent to any replica of a model or to one that is ejected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from contextvars import Context
from typing import Any, TypeVar

from deployments.remote import Deployed
from deployments.replicas.probe_ids import new_probe_id
from deployments.replicas.replica_set import AdapterReplicas, ReplicaSet
from router.clock import now_s
from router.errors import (
    AdapterMissing,
    ModelDied,
    ModelFailed,
    ModelStalled,
    ModelUnavailable,
    RouterError,
)
from router.model_port import Finish, ModelRequest
from router.prompt import Message, Prompt
from router.sampling import Sampling

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Whether an ejected replica may be probed again. Arguments: when its probes began (in seconds, on the event
# loop's clock), and how many calls the model had had at the last probe.
MayContinue = Callable[[float, int], bool]

# The pause between two probes of an ejected replica. It doubles each time, up to MAX_PAUSE_S; while no other
# replica is healthy, up to MAX_PAUSE_ALONE_S.
MIN_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
MAX_PAUSE_ALONE_S = 2.0

# With another adapter, the replica may answer.
OF_THE_ADAPTER = (AdapterMissing, ModelDied, ModelFailed)

PROBE_TOKENS = 2  # the first comes of a prefill, the second of a step with a cache


async def probe(
    model: Deployed, timeout_s: float, replica: str | None = None, *, adapter: str | None = None
) -> None:
    """Returns when the model, or the given replica of it, has answered with the adapter.

    Raises:
        ModelStalled: no answer within `timeout_s`; the replica that had the probe is ejected.
        RouterError: what `Model.stream` raises.
    """
    request = probe_request(replica, adapter)
    try:
        async with asyncio.timeout(timeout_s), aclosing(model.stream(request)) as chunks:
            async for chunk in chunks:
                if chunk.finish is Finish.CANCELLED:
                    break  # a replica that shuts down
                if chunk.finish:
                    return
    except TimeoutError as error:
        model.replicas.call_stalled(request.request_id)
        raise ModelStalled(f"no answer within {timeout_s:g} s") from error
    raise ModelUnavailable("the stream ended without an answer")


def probe_request(replica: str | None = None, adapter: str | None = None) -> ModelRequest:
    return ModelRequest(
        request_id=new_probe_id(replica),
        prompt=Prompt(messages=(Message("user", "ping"),)),
        sampling=Sampling(temperature=0.0),
        max_tokens=PROBE_TOKENS,
        adapter=adapter,
    )


class EjectedReplicaProber:
    """Probes each ejected replica of a model, in a task of its own, until it answers or is gone.

    A replica that all adapters of an application avoid is probed with a few of them, for all.
    """

    def __init__(self, adapter: str | None = None) -> None:
        self._adapter = adapter
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def refresh(
        self, model: Deployed, timeout_s: float, may_continue: MayContinue, *, is_needed: bool = False
    ) -> None:
        """Start to probe replicas that were ejected meanwhile. With `is_needed`, a caller waits for this
        model, which then does not rely on the probes of other adapters: they may have to pause."""
        claims, replicas = model.replicas.claims, model.replicas.for_adapter(self._adapter)
        for replica in replicas.ejected - self._tasks.keys():
            is_for_all = not _lacks_adapter(replicas, replica)
            if is_for_all and claims.are_taken(replica) and not is_needed:
                continue
            work = self._probe_until_cleared(model, replica, timeout_s, may_continue)
            self._tasks[replica] = start(work, f"probe {replica}")
            if is_for_all:
                claims.take(replica, self._tasks[replica])

    def close(self) -> list[asyncio.Task[None]]:
        """Stop probing; returns the tasks that are left to wait for."""
        for task in self._tasks.values():
            task.cancel()
        return list(self._tasks.values())

    async def _probe_until_cleared(
        self, model: Deployed, replica: str, timeout_s: float, may_continue: MayContinue
    ) -> None:
        since_s, pause_s = now_s(), MIN_PAUSE_S
        replicas = model.replicas.for_adapter(self._adapter)
        try:
            while replica in replicas.ejected:
                num_begun = model.replicas.calls.num_begun
                try:
                    await probe(model, timeout_s, replica, adapter=self._adapter)
                except RouterError as error:
                    logger.info("replica %s does not answer yet: %s", replica, error)
                    if isinstance(error, OF_THE_ADAPTER):
                        model.replicas.claims.give_up(replica, asyncio.current_task())
                await _pause(replicas, replica, pause_s)
                while not may_continue(since_s, num_begun) and replica in replicas.ejected:  # noqa: ASYNC110
                    await asyncio.sleep(MIN_PAUSE_S)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        finally:
            del self._tasks[replica]


async def wait_for_healthy(replicas: ReplicaSet | AdapterReplicas, deadline_s: float) -> None:
    """Wait while every running replica is ejected: an `EjectedReplicaProber` probes each of them.

    Raises:
        ModelStalled: none was healthy before `deadline_s`, by the loop's clock.
    """
    while replicas.running and not replicas.healthy:
        left_s = deadline_s - now_s()
        if left_s <= 0:
            raise ModelStalled("no replica answers")
        await asyncio.sleep(min(left_s, MIN_PAUSE_S))


def start(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Run work that belongs to no request: Serve cancels, with a request, what was started in its context."""
    return asyncio.create_task(work, name=name, context=Context())


def _lacks_adapter(replicas: ReplicaSet | AdapterReplicas, replica: str) -> bool:
    return isinstance(replicas, AdapterReplicas) and replicas.lacks(replica)


async def _pause(replicas: ReplicaSet | AdapterReplicas, replica: str, pause_s: float) -> None:
    """In small steps, because the replica may be cleared meanwhile, or become the only one that is left."""
    began_s = now_s()
    while replica in replicas.ejected:
        if now_s() - began_s >= (pause_s if replicas.healthy else min(pause_s, MAX_PAUSE_ALONE_S)):
            return
        await asyncio.sleep(MIN_PAUSE_S)
