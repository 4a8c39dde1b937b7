"""SIGSTOP: a replica that hangs. The router avoids it, Serve replaces it, and the expert answers again."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from benchmarks.chaos.clients import asking
from benchmarks.chaos.replicas import Replica
from benchmarks.chaos.replies import Ending, Known, ask, broken_promises, client, endings, failure_examples
from benchmarks.chaos.world import Settings, World, eventually, polled
from benchmarks.hot_change.answers import Question
from cluster.serve.app_names import expert_app

LONG_TOKENS = 150
TIMEOUT_S = 240.0
NUM_CHECKS = 8  # in a row, so that every replica of the router is checked
SHORT_DEADLINES: Settings = {
    ("routing", "deadlines", "first_token_s"): 5.0,
    ("routing", "deadlines", "gap_s"): 3.0,
}
# A third of the defaults. Serve replaces a replica after three failed health checks in a row.
HEALTH = {"period_s": 2.0, "timeout_s": 3.0}


@dataclass(frozen=True)
class HangReport:
    """Seconds from the SIGSTOP. `noticed_s`: until a router no longer reported the expert as ready (None: it
    always did). `replaced_s`: until Serve had replaced the process. `ready_again_s`: until every router
    reported the expert as ready again. `answered_s`: until the expert had answered a new question.
    `on_unavailable`: the setting of the expert."""

    on_unavailable: str
    num_replicas: int
    noticed_s: float | None
    replaced_s: float
    ready_again_s: float
    answered_s: float
    num_without_expert: int
    longest_pause_s: float
    endings: dict[str, int]
    examples: list[str]

    def broken(self) -> list[str]:
        # If the meta finishes an answer of the expert, the text differs, and that is right.
        others = (Ending.WRONG, Ending.TRUNCATED) if self.on_unavailable == "meta" else ()
        problems = broken_promises("clients noticed", self.endings, {Ending.WHOLE, *others})
        if self.num_replicas == 1 and self.noticed_s is None:
            problems.append("no router noticed that the only replica hung")
        return problems


async def hang(
    world: World, *, expert: str, num_replicas: int, on_unavailable: str, num_clients: int
) -> HangReport:
    """Stops one of the expert's replicas while clients stream from it, then restores cluster.yaml."""
    before = world.path.read_text(encoding="utf-8")
    await world.change(SHORT_DEADLINES | _block(expert, num_replicas, on_unavailable))
    await world.settled()
    questions = world.of(expert, LONG_TOKENS)[:num_clients]
    await world.record_known_answers(questions, num_clients)
    try:
        return await _stop_replica(world, expert, questions, on_unavailable)
    finally:
        await world.restore(before)


def _block(expert: str, num_replicas: int, on_unavailable: str) -> Settings:
    place = ("experts", expert)
    values: Settings = {(*place, "autoscaling", f"{end}_replicas"): num_replicas for end in ("min", "max")}
    values |= {(*place, "health", name): limit_s for name, limit_s in HEALTH.items()}
    return values | {(*place, "on_unavailable"): on_unavailable}


async def _stop_replica(
    world: World, expert: str, questions: Sequence[Question], on_unavailable: str
) -> HangReport:
    app = expert_app(expert)
    replicas = world.running(app)
    async with client(world.url) as http, asking(http, questions, len(questions)) as replies:
        await asyncio.sleep(1.0)  # until all answers stream
        began_s = time.monotonic()
        replicas[0].send(signal.SIGSTOP)
        noticing = asyncio.create_task(_wait_until_noticed(http, expert, began_s))
        try:
            replaced_s = await _wait_until_replaced(world, app, replicas[0], began_s)
            ready_again_s = await _wait_until_ready_again(http, expert, began_s)
            answered_s = await _wait_until_answered(http, questions[0], world.known, expert, began_s)
        finally:
            replicas[0].send(signal.SIGCONT)  # if nothing killed it, it would stay stopped for ever
            noticing.cancel()
            await asyncio.gather(noticing, return_exceptions=True)
    return HangReport(
        on_unavailable=on_unavailable,
        num_replicas=len(replicas),
        noticed_s=None if noticing.cancelled() else noticing.result(),
        replaced_s=replaced_s,
        ready_again_s=ready_again_s,
        answered_s=answered_s,
        num_without_expert=sum(expert not in reply.answer.writers for reply in replies),
        longest_pause_s=max(reply.longest_pause_s for reply in replies),
        endings=endings(replies, world.known),
        examples=failure_examples(replies, world.known),
    )


async def _wait_until_noticed(http: httpx.AsyncClient, expert: str, began_s: float) -> float:
    async def is_unready() -> bool:
        return await _state(http, expert) != "ready"

    await polled(is_unready, f"{expert} was ready all the time", TIMEOUT_S)
    return time.monotonic() - began_s


async def _wait_until_replaced(world: World, app: str, stopped: Replica, began_s: float) -> float:
    num_replicas = len(world.running(app))

    def is_replaced() -> bool:
        replicas = world.running(app)
        return len(replicas) == num_replicas and stopped.pid not in {replica.pid for replica in replicas}

    await eventually(is_replaced, f"{app} was not replaced", TIMEOUT_S)
    return time.monotonic() - began_s


async def _wait_until_ready_again(http: httpx.AsyncClient, expert: str, began_s: float) -> float:
    async def is_ready() -> bool:
        return {await _state(http, expert) for _ in range(NUM_CHECKS)} == {"ready"}

    await polled(is_ready, f"{expert} was not ready again", TIMEOUT_S)
    return time.monotonic() - began_s


async def _wait_until_answered(
    http: httpx.AsyncClient, question: Question, known: Known, expert: str, began_s: float
) -> float:
    async def is_whole() -> bool:
        reply = await ask(http, question)
        return expert in reply.answer.writers and reply.ending(known) is Ending.WHOLE

    await polled(is_whole, f"{expert} did not answer again", TIMEOUT_S)
    return time.monotonic() - began_s


async def _state(http: httpx.AsyncClient, expert: str) -> str:
    return str((await http.get("/healthz")).json()["experts"][expert])
