"""The changes, each through the functions of its command: the file is edited, then applied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.hot.answers import Question
from benchmarks.hot.clients import Clients
from benchmarks.hot.watch import Loading, loading, pids, probabilities
from cluster.apply import apply
from cluster.config import load_config
from cluster.events import AppEvent
from cluster.serve_client import ServeClient
from cluster.serve_config import expert_app
from cluster.session import until
from cluster.yaml_edit import add_expert, remove_expert, set_values
from experts.token import ExpertToken

POLL_S = 0.25
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Step:
    """`took_s`: until every model answered and whatever left was gone. Times are of time.monotonic()."""

    what: str
    began_s: float
    took_s: float
    events: tuple[tuple[float, AppEvent], ...]


@dataclass(frozen=True)
class Newcomer:
    """`load_s`: from its process to its model in memory. From the apply: `running_s` until that was done,
    `first_answer_s` until the first answer it had a part in was whole. In between lies what is ours; before
    the load, Serve builds the application in a process of its own."""

    name: str
    load_s: float
    running_s: float
    first_answer_s: float

    @property
    def opened_s(self) -> float:
        return self.first_answer_s - self.running_s


@dataclass
class Changes:
    """Changes the cluster of `config_path` and keeps the time."""

    config_path: Path
    client: ServeClient
    clients: Clients
    steps: list[Step] = field(default_factory=list)

    async def add(self, experts: Mapping[str, Mapping[str, Any]]) -> list[Newcomer]:
        """Returns when each of them has written an answer for one of the clients."""
        for name, block in experts.items():
            add_expert(self.config_path, name, block)
        async with loading(self.client) as seen:
            step = await self._apply(f"add {', '.join(experts)}")
        return [await self._newcomer(name, step.began_s, seen) for name in experts]

    async def replace_token(self, name: str, question: Question) -> float:
        """A longer vector in the same direction; seconds from the apply until it decides."""
        path = Path(load_config(self.config_path).local_experts[name].token)
        token = ExpertToken.load(path)
        replace(token, vector=token.vector * 1.05).save(path)
        before = (await probabilities(self.clients.http, question))[name]
        applying = asyncio.create_task(self._apply(f"replace the vector of {name}"))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while (await probabilities(self.clients.http, question))[name] == before:
                    pass
            decided_s = time.monotonic()
        finally:
            await applying
        return decided_s - applying.result().began_s

    async def remove(self, name: str) -> None:
        remove_expert(self.config_path, name)
        await self._apply(f"remove {name}")

    async def scale(self, name: str, num_replicas: int) -> None:
        keys = ("min_replicas", "max_replicas")
        set_values(self.config_path, {("experts", name, "autoscaling", key): num_replicas for key in keys})
        await self._apply(
            f"scale {name} to {num_replicas}",
            lambda: len(pids(self.client)[expert_app(name)]) == num_replicas,
        )

    async def _apply(self, what: str, is_done: Callable[[], bool] = lambda: True) -> Step:
        events: list[tuple[float, AppEvent]] = []

        def note(event: AppEvent) -> None:
            events.append((time.monotonic(), event))

        began_s = time.monotonic()
        config = load_config(self.config_path)
        await asyncio.to_thread(apply, config, self.client, note, poll_s=POLL_S)
        if not await asyncio.to_thread(until, is_done, TIMEOUT_S, POLL_S):
            raise TimeoutError(f"{what}: not there after {TIMEOUT_S:g} s")
        self.steps.append(Step(what, began_s, time.monotonic() - began_s, tuple(events)))
        return self.steps[-1]

    async def _newcomer(self, name: str, began_s: float, seen: Loading) -> Newcomer:
        answers = self.clients.answers
        await self.clients.until(lambda: any(name in one.writers for one in answers), TIMEOUT_S)
        answered_s = min(one.ended_s for one in answers if name in one.writers)
        app = expert_app(name)
        return Newcomer(name, seen.load_s(app), seen.running_s[app] - began_s, answered_s - began_s)
