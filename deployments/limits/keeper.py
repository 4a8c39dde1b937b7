"""The keeper of limits: one Ray actor for all routers, made by the first one that needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from router.admission.lease import RENEWAL_PERIOD_S, Renewal, Reports, UseByKey
from router.admission.leases import Leases
from router.admission.limit_ledger import LimitLedger
from router.errors import ModelUnavailable

NAME, NAMESPACE = "limit-keeper", "expert-token-routing"
ANSWER_TIMEOUT_S = 0.5  # requests wait so long at most, and only once while the keeper is away
START_TIMEOUT_S = 20.0  # making one takes a process some seconds

T = TypeVar("T")


class KeeperActor:
    """Holds the ledger. It ends with the router that made it; the next router then makes another."""

    def __init__(self) -> None:
        self._ledger = LimitLedger()

    async def renew(self, router: str, day: int, reports: Reports) -> Renewal:
        return self._ledger.renew(router, day, reports)

    async def use(self) -> UseByKey:
        return self._ledger.use()


class RayKeeper:
    """Keeps the contract of `LimitKeeper`. Nothing is started before `start`."""

    def __init__(self, name: str = NAME) -> None:
        self._name = name
        self._actor: Any = None

    async def start(self) -> None:
        """Find the actor, or make it, and wait until it answers; has no effect if it is known.

        Raises:
            ModelUnavailable: it does not answer in time.
        """
        if self._actor is None:
            actor = await _in_time(asyncio.to_thread(_find_or_make, self._name), START_TIMEOUT_S)
            await _in_time(actor.use.remote(), START_TIMEOUT_S)
            self._actor = actor

    async def renew(self, router: str, day: int, reports: Reports) -> Renewal:
        return cast("Renewal", await self._ask(lambda actor: actor.renew.remote(router, day, reports)))

    async def use(self) -> UseByKey:
        return cast("UseByKey", await self._ask(lambda actor: actor.use.remote()))

    async def _ask(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        if self._actor is None:
            raise ModelUnavailable("the keeper of limits has not started yet")
        try:
            return await _in_time(ask(self._actor), ANSWER_TIMEOUT_S)
        except ModelUnavailable as error:
            if isinstance(error.__cause__, RayError):  # it is gone, not only slow
                self._actor = None
            raise


async def keep_renewing(keeper: RayKeeper, leases: Leases, is_needed: Callable[[], bool]) -> None:
    """Renew the leases of this router, and see to it that there is a keeper."""
    while True:
        if is_needed():
            await renew(keeper, leases)
        await asyncio.sleep(RENEWAL_PERIOD_S)


async def renew(keeper: RayKeeper, leases: Leases) -> None:
    with suppress(ModelUnavailable):
        await keeper.start()
    await leases.renew_all()


async def _in_time(answer: Awaitable[T], timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except (RayError, ValueError, TimeoutError) as error:  # ValueError: its name is not free yet
        raise ModelUnavailable("the keeper of limits does not answer") from error


def _find_or_make(name: str) -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return (
        ray.remote(KeeperActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=1000,
            scheduling_strategy=here,
        )
        .remote()
    )
