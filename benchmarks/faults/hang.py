"""SIGSTOP: a replica that is there and does nothing. It is avoided, replaced, and asked again."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from benchmarks.faults.clients import asking
from benchmarks.faults.replicas import Replica
from benchmarks.faults.replies import Ending, Known, ask, client, endings, not_whole, unkept
from benchmarks.faults.world import Settings, World, eventually, polled
from benchmarks.hot.answers import Question
from cluster.serve_config import expert_app

LONG = 150  # tokens
TIMEOUT_S = 240.0
NUM_LOOKS = 8  # in a row, so that every router replica is among those that were asked
QUICK: Settings = {
    ("routing", "deadlines", "first_token_s"): 5.0,
    ("routing", "deadlines", "gap_s"): 3.0,
}
# A third of what is usual: Serve replaces what failed to answer three times in a row.
HEALTH = {"period_s": 2.0, "timeout_s": 3.0}


@dataclass(frozen=True)
class HangReport:
    """Seconds from the SIGSTOP: `seen_s` until a router called the expert something else than ready (None: it
    did not have to), `replaced_s` until Serve had another process in its place, `back_s` until every router
    called it ready again, `answered_s` until the first whole answer of the expert's that was asked for
    afterwards. `when_away`: what the expert's block says."""

    when_away: str
    num_replicas: int
    seen_s: float | None
    replaced_s: float
    back_s: float
    answered_s: float
    num_without_expert: int
    longest_pause_s: float
    endings: dict[str, int]
    examples: list[str]

    def broken(self) -> list[str]:
        # An answer that the meta took over in the middle is another text, and a good one.
        others = (Ending.WRONG, Ending.TRUNCATED) if self.when_away == "meta" else ()
        told = unkept("clients noticed", self.endings, {Ending.WHOLE, *others})
        if self.num_replicas == 1 and self.seen_s is None:
            told.append("no router noticed that the only replica hangs")
        return told


async def hang(
    world: World, *, expert: str, num_replicas: int, when_away: str, num_clients: int
) -> HangReport:
    """Stops one of the expert's replicas while clients stream from it, and puts the world back."""
    before = world.path.read_text(encoding="utf-8")
    await world.change(QUICK | _block(expert, num_replicas, when_away))
    await world.settled()
    questions = world.of(expert, LONG)[:num_clients]
    await world.learn_known(questions, num_clients)
    try:
        return await _watch(world, expert, questions, when_away)
    finally:
        await world.restore(before)


def _block(expert: str, num_replicas: int, when_away: str) -> Settings:
    place = ("experts", expert)
    values: Settings = {(*place, "autoscaling", f"{end}_replicas"): num_replicas for end in ("min", "max")}
    values |= {(*place, "health", name): limit_s for name, limit_s in HEALTH.items()}
    return values | {(*place, "when_away"): when_away}


async def _watch(world: World, expert: str, questions: Sequence[Question], when_away: str) -> HangReport:
    app = expert_app(expert)
    replicas = world.running(app)
    async with client(world.url) as http, asking(http, questions, len(questions)) as replies:
        await asyncio.sleep(1.0)  # until all of them are written to
        began_s = time.monotonic()
        replicas[0].send(signal.SIGSTOP)
        seeing = asyncio.create_task(_seen(http, expert, began_s))
        try:
            replaced_s = await _replaced(world, app, replicas[0], began_s)
            back_s = await _back(http, expert, began_s)
            answered_s = await _answered(http, questions[0], world.known, expert, began_s)
        finally:
            replicas[0].send(signal.SIGCONT)  # or, killed by nobody, it would be there for ever
            seeing.cancel()
            await asyncio.gather(seeing, return_exceptions=True)
    return HangReport(
        when_away=when_away,
        num_replicas=len(replicas),
        seen_s=None if seeing.cancelled() else seeing.result(),
        replaced_s=replaced_s,
        back_s=back_s,
        answered_s=answered_s,
        num_without_expert=sum(expert not in one.answer.writers for one in replies),
        longest_pause_s=max(one.longest_pause_s for one in replies),
        endings=endings(replies, world.known),
        examples=not_whole(replies, world.known),
    )


async def _seen(http: httpx.AsyncClient, expert: str, began_s: float) -> float:
    async def is_closed() -> bool:
        return await _state(http, expert) != "ready"

    await polled(is_closed, f"{expert} is ready all the time", TIMEOUT_S)
    return time.monotonic() - began_s


async def _replaced(world: World, app: str, stopped: Replica, began_s: float) -> float:
    num = len(world.running(app))

    def is_replaced() -> bool:
        there = world.running(app)
        return len(there) == num and stopped.pid not in {one.pid for one in there}

    await eventually(is_replaced, f"{app} is not replaced", TIMEOUT_S)
    return time.monotonic() - began_s


async def _back(http: httpx.AsyncClient, expert: str, began_s: float) -> float:
    async def is_open() -> bool:
        return {await _state(http, expert) for _ in range(NUM_LOOKS)} == {"ready"}

    await polled(is_open, f"{expert} is not ready again", TIMEOUT_S)
    return time.monotonic() - began_s


async def _answered(
    http: httpx.AsyncClient, question: Question, known: Known, expert: str, began_s: float
) -> float:
    async def is_whole() -> bool:
        reply = await ask(http, question)
        return expert in reply.answer.writers and reply.ending(known) is Ending.WHOLE

    await polled(is_whole, f"{expert} does not answer again", TIMEOUT_S)
    return time.monotonic() - began_s


async def _state(http: httpx.AsyncClient, expert: str) -> str:
    return str((await http.get("/healthz")).json()["experts"][expert])
