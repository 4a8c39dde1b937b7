"""How routers reach the keeper of limits, and what they do while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from deployments.limits import keeper as keeper_module
from deployments.limits.keeper import KeeperActor, RayKeeper, renew
from router.admission.lease import Limit
from router.admission.leases import Leases
from router.api_key import ApiKey
from router.errors import ModelUnavailable, RateLimited

KEY = ApiKey(name="a", sha256="0" * 64, max_concurrent=2)


@dataclass
class FakeMethod:
    """A method of an actor, called through its handle."""

    run: Callable[..., Awaitable[Any]]
    actor: FakeActor

    def remote(self, *args: Any) -> Awaitable[Any]:
        return self._answer(*args)

    async def _answer(self, *args: Any) -> Any:
        if self.actor.is_dead:
            raise ActorDiedError
        await asyncio.sleep(self.actor.delay_s)
        return await self.run(*args)


@dataclass
class FakeActor:
    """The handle of a keeper's actor, which may die or be slow."""

    is_dead: bool = False
    delay_s: float = 0.0
    inner: KeeperActor = field(default_factory=KeeperActor)

    def __getattr__(self, name: str) -> FakeMethod:
        return FakeMethod(getattr(self.inner, name), self)


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[FakeActor]:
    """Every actor that was made; the last one has the keeper's name."""
    made: list[FakeActor] = []

    def find_or_make(name: str) -> FakeActor:
        if not made or made[-1].is_dead:
            made.append(FakeActor())
        return made[-1]

    monkeypatch.setattr(keeper_module, "_find_or_make", find_or_make)
    return made


async def test_routers_share_one_keeper_and_make_another_when_it_is_gone(actors: list[FakeActor]):
    keepers = [RayKeeper(), RayKeeper()]
    routers = [Leases(keeper) for keeper in keepers]
    for keeper, leases in zip(keepers, routers, strict=True):
        await renew(keeper, leases)
    await routers[0].take(KEY, 2)
    with pytest.raises(RateLimited):
        await routers[1].take(KEY, 1)
    actors[0].is_dead = True
    await renew(keepers[0], routers[0])
    assert routers[0].is_alone
    await renew(keepers[0], routers[0])
    await renew(keepers[1], routers[1])
    await renew(keepers[1], routers[1])
    assert [leases.is_alone for leases in routers] == [False, False]
    assert len(actors) == 2
    with pytest.raises(RateLimited):
        await routers[1].take(KEY, 1)
    assert (await keepers[1].use())["a"][Limit.OPEN].used == 2


async def test_a_slow_keeper_delays_one_request_and_is_not_replaced(
    actors: list[FakeActor], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeper_module, "ANSWER_TIMEOUT_S", 0.01)
    keeper = RayKeeper()
    leases = Leases(keeper)
    await keeper.start()
    actors[0].delay_s = 3600
    await leases.take(KEY, 1)
    assert leases.is_alone
    await leases.take(KEY, 1)
    actors[0].delay_s = 0
    monkeypatch.undo()
    await leases.renew_all()
    assert (leases.is_alone, len(actors)) == (False, 1)


async def test_nothing_is_started_by_asking():
    with pytest.raises(ModelUnavailable, match="has not started yet"):
        await RayKeeper().use()
