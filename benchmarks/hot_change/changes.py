"""The changes, made as the `etr` commands make them: the file is edited, then applied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.hot_change.answers import Question
from benchmarks.hot_change.clients import Clients
from benchmarks.hot_change.watch import LoadTimes, loading, pids, probabilities
from cluster.config.cluster_config import load_config
from cluster.config.config_editor import add_expert, remove_expert, set_values
from cluster.polling import until
from cluster.serve.app_names import expert_app
from cluster.serve.app_status import AppEvent
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from experts.token import ExpertToken

POLL_S = 0.25
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Step:
    """`took_s`: until every model answered and removed models were gone. Times are of time.monotonic()."""

    name: str
    began_s: float
    took_s: float
    events: tuple[tuple[float, AppEvent], ...]


@dataclass(frozen=True)
class NewExpert:
    """`load_s`: from the start of the process until the model is in memory. Measured from the apply:
    `running_s`, until the model is in memory; `first_answer_s`, until the expert's first answer is whole. The
    difference of these two is this system's own delay."""

    name: str
    load_s: float
    running_s: float
    first_answer_s: float

    @property
    def answer_delay_s(self) -> float:
        return self.first_answer_s - self.running_s


@dataclass
class Changes:
    """Changes the cluster of `config_path` and measures how long each change takes."""

    config_path: Path
    client: ServeClient
    clients: Clients
    steps: list[Step] = field(default_factory=list)

    async def add(self, experts: Mapping[str, Mapping[str, Any]]) -> list[NewExpert]:
        """Returns when each new expert has written an answer for a client."""
        for name, block in experts.items():
            add_expert(self.config_path, name, block)
        async with loading(self.client) as load_times:
            step = await self._apply(f"add {', '.join(experts)}")
        return [await self._new_expert(name, step.began_s, load_times) for name in experts]

    async def replace_token(self, name: str, question: Question) -> float:
        """Make the vector 5 % longer. Returns the seconds from the apply until decisions use it."""
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

    async def _apply(self, name: str, is_done: Callable[[], bool] = lambda: True) -> Step:
        events: list[tuple[float, AppEvent]] = []

        def record(event: AppEvent) -> None:
            events.append((time.monotonic(), event))

        began_s = time.monotonic()
        config = load_config(self.config_path)
        await asyncio.to_thread(apply, config, self.client, record, poll_s=POLL_S)
        if not await asyncio.to_thread(until, is_done, TIMEOUT_S, POLL_S):
            raise TimeoutError(f"{name}: not done after {TIMEOUT_S:g} s")
        self.steps.append(Step(name, began_s, time.monotonic() - began_s, tuple(events)))
        return self.steps[-1]

    async def _new_expert(self, name: str, began_s: float, load_times: LoadTimes) -> NewExpert:
        answers = self.clients.answers
        await self.clients.until(lambda: any(name in answer.writers for answer in answers), TIMEOUT_S)
        answered_s = min(answer.ended_s for answer in answers if name in answer.writers)
        app = expert_app(name)
        return NewExpert(
            name, load_times.load_s(app), load_times.running_s[app] - began_s, answered_s - began_s
        )
