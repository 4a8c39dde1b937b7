"""Replicas that report how busy they are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from router.errors import ModelUnavailable
from router.load_report import ReplicaLoad


def replica(
    name: str = "r1",
    *,
    time_s: float = 0.0,
    num_running: int = 0,
    num_waiting: int = 0,
    num_tokens: int = 0,
    cache_use: float = 0.0,
) -> ReplicaLoad:
    return ReplicaLoad(name, time_s, num_running, num_waiting, num_tokens, cache_use)


@dataclass
class FakeBroadcast:
    """`of`: the replicas by application; no other application exists. `silent` applications never answer."""

    of: dict[str, list[ReplicaLoad]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    turns: dict[str, str] = field(default_factory=dict)
    kept: Collection[str] = ()

    async def loads(self, app: str) -> list[ReplicaLoad]:
        self.asked.append(app)
        await self._answer(app)
        if app not in self.of:
            raise ModelUnavailable(f"there is no application {app}")
        return list(self.of[app])

    async def open_calls(self) -> Mapping[str, int]:
        await self._answer("router")
        return dict(self.calls)

    async def quarantine(self, digest: str) -> None:
        await self._answer("router")
        if "router" not in self.of:
            raise ModelUnavailable("there is no application router")
        self.quarantined.append(digest)

    async def turn_authors(self, turns: Mapping[str, str]) -> None:
        await self._answer("router")
        if "router" not in self.of:
            raise ModelUnavailable("there is no application router")
        self.turns |= turns

    def keep(self, apps: Collection[str]) -> None:
        self.kept = set(apps)

    async def _answer(self, app: str) -> None:
        """After a while, or not at all, as over a network."""
        await asyncio.sleep(60.0 if app in self.silent else 0.5)
