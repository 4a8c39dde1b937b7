"""Ten times more than the cluster can answer, by two clients with a key each, one of them greedy."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks.faults.clients import asking
from benchmarks.faults.idle import freed_s
from benchmarks.faults.replicas import Replica, Size, growth, sizes
from benchmarks.faults.replies import Ending, Reply, ask, client, endings
from benchmarks.faults.world import MAX_STREAMS, Settings, World, polled
from benchmarks.hot.answers import Question
from cluster.keys import create_key

LONG = 200  # tokens; with more answers a second, two cores would be full of refusing ten times as many
FACTOR = 10
MODEST_PART = 0.4  # of the capacity: less than the half that is the modest client's
QUEUE_S, FIRST_TOKEN_S, TOTAL_S = 16.0, 20.0, 120.0
STREAMS = 4  # of an expert's replica: the burst is to last longer than several answers one after the other
RULES: Settings = {
    ("routing", "deadlines", "queue_s"): QUEUE_S,
    ("routing", "deadlines", "first_token_s"): FIRST_TOKEN_S,
    ("routing", "deadlines", "gap_s"): FIRST_TOKEN_S,
    ("routing", "deadlines", "total_s"): TOTAL_S,
    ("routing", "heartbeat_s"): 2 * QUEUE_S,
}
WANTED_REFUSED_MS = 100.0
WANTED_GROWTH = 1.1
WANTED_MODEST = 0.8  # of what the modest client asks
WANTED_RECOVERED_S = 10.0  # a second or two more than those that came in the burst were let wait
SETTLE_S = 20.0
RECOVER_TIMEOUT_S = 120.0
CAPACITY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class OverloadReport:
    """`refused_p99_ms`: at the router, by its own header; `refused_p99_client_ms` with all that is before it
    on a machine that the clients share. `growth`: RSS afterwards as a multiple of RSS before."""

    capacity_per_s: float
    offered_per_s: float
    burst_s: float
    endings: dict[str, int]
    num_late: int
    num_bare_refusals: int
    first_text_p99_s: float
    longest_s: float
    refused_p99_ms: float
    refused_p99_client_ms: float
    modest_asked: int
    modest_answered: int
    greedy_asked: int
    greedy_answered: int
    growth: dict[str, float]
    recovered_s: float
    freed_s: float
    examples: list[str]

    def broken(self) -> list[str]:
        good = (Ending.WHOLE, Ending.REFUSED)
        told = [f"{num} answers {end}" for end, num in self.endings.items() if num and end not in good]
        told += [
            f"{app} holds {ratio:.2f} × its memory"
            for app, ratio in self.growth.items()
            if ratio > WANTED_GROWTH
        ]
        limits = {
            f"{self.num_late} accepted answers missed their deadline": self.num_late == 0,
            f"{self.num_bare_refusals} refusals without envelope or Retry-After": self.num_bare_refusals == 0,
            "nothing was refused": self.endings[Ending.REFUSED] > 0,
            f"refusals took {self.refused_p99_ms:.0f} ms": self.refused_p99_ms <= WANTED_REFUSED_MS,
            "the modest client did not get its share": self.modest_answered
            >= WANTED_MODEST * self.modest_asked,
            f"the first answer began {self.recovered_s:.1f} s after the burst": self.recovered_s
            <= WANTED_RECOVERED_S,
        }
        return told + [promise for promise, is_kept in limits.items() if not is_kept]


async def overload(world: World, *, burst_s: float, measure_s: float) -> OverloadReport:
    """`measure_s`: how long at least the capacity is measured before."""
    before_text = world.path.read_text(encoding="utf-8")
    experts = sorted({one.topic for one in world.questions if one.topic is not None})
    questions = [question for expert in experts for question in world.of(expert, LONG)]
    await world.learn_known(questions, 2 * MAX_STREAMS)
    keys_path = world.path.with_name("keys.yaml")
    keys = {name: create_key(keys_path, name, {}) for name in ("greedy", "modest")}
    await world.change(
        {
            **RULES,
            **{("experts", expert, "engine", "max_streams"): STREAMS for expert in experts},
            ("http", "keys_file"): str(keys_path),
        }
    )
    try:
        async with client(world.url, keys["greedy"]) as greedy, client(world.url, keys["modest"]) as modest:
            return await _measure(world, greedy, modest, questions, burst_s, measure_s)
    finally:
        await world.restore(before_text)
        keys_path.unlink()


async def _measure(
    world: World,
    greedy: httpx.AsyncClient,
    modest: httpx.AsyncClient,
    questions: Sequence[Question],
    burst_s: float,
    measure_s: float,
) -> OverloadReport:
    capacity = await _capacity(greedy, questions, measure_s)
    await freed_s(greedy, time.monotonic())
    replicas = world.running()
    before = sizes(replicas)
    rates = {"modest": MODEST_PART * capacity, "greedy": (FACTOR - MODEST_PART) * capacity}
    async with asyncio.TaskGroup() as clients:
        asked = {
            name: clients.create_task(_open_loop(http, questions, rates[name], burst_s))
            for name, http in (("greedy", greedy), ("modest", modest))
        }
        await asyncio.sleep(burst_s)
        recovered_s = await _recovered(modest, questions[0], world)
    free_s = await freed_s(greedy, time.monotonic())
    after = await _settled(replicas, before)
    replies = {name: task.result() for name, task in asked.items()}
    return _report(world, replies, capacity, burst_s, growth(before, after), recovered_s, free_s)


async def _capacity(http: httpx.AsyncClient, questions: Sequence[Question], measure_s: float) -> float:
    """Whole answers a second while every slot is taken and nothing waits long.

    Answers of equal length end in waves: one for every client at least, however long that takes.
    """
    async with asking(http, questions, MAX_STREAMS) as replies:
        began_s = time.monotonic()

        async def is_measured() -> bool:
            return len(replies) >= MAX_STREAMS and time.monotonic() - began_s >= measure_s

        await polled(is_measured, "a quiet cluster did not answer them all", CAPACITY_TIMEOUT_S)
        return len(replies) / (time.monotonic() - began_s)


async def _open_loop(
    http: httpx.AsyncClient, questions: Sequence[Question], rate_per_s: float, burst_s: float
) -> list[Reply]:
    """Asks at its pace, whatever becomes of the answers."""
    began_s = time.monotonic()
    asked: list[asyncio.Task[Reply]] = []
    async with asyncio.TaskGroup() as tasks:
        for i, question in zip(range(int(rate_per_s * burst_s)), itertools.cycle(questions), strict=False):
            await asyncio.sleep(began_s + i / rate_per_s - time.monotonic())
            asked.append(tasks.create_task(ask(http, question)))
    return [task.result() for task in asked]


async def _recovered(http: httpx.AsyncClient, question: Question, world: World) -> float:
    """Seconds until the first text of a whole answer to a question that was asked after the burst."""
    began_s = time.monotonic()
    first_s: float | None = None

    async def is_whole() -> bool:
        nonlocal first_s
        reply = await ask(http, question)
        first_s = reply.first_s
        return reply.ending(world.known) is Ending.WHOLE

    await polled(is_whole, "no answer after the burst", RECOVER_TIMEOUT_S)
    assert first_s is not None, "a whole answer has text"
    return first_s - began_s


async def _settled(replicas: Sequence[Replica], before: Mapping[Replica, Size]) -> dict[Replica, Size]:
    """What they hold in the end; a process may take a while to give memory back."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        after = sizes(replicas)
        if max(growth(before, after).values()) <= WANTED_GROWTH or time.monotonic() > deadline_s:
            return after
        await asyncio.sleep(1.0)


def _report(
    world: World,
    replies: Mapping[str, Sequence[Reply]],
    capacity: float,
    burst_s: float,
    grown: dict[str, float],
    recovered_s: float,
    free_s: float,
) -> OverloadReport:
    everything = [*replies["greedy"], *replies["modest"]]
    refused = [one for one in everything if one.ending(world.known) is Ending.REFUSED]
    accepted = [one for one in everything if one.status == 200]
    num_whole = {
        name: sum(one.ending(world.known) is Ending.WHOLE for one in some) for name, some in replies.items()
    }
    bad = (one for one in everything if one.ending(world.known) not in (Ending.WHOLE, Ending.REFUSED))
    return OverloadReport(
        capacity_per_s=capacity,
        offered_per_s=len(everything) / burst_s,
        burst_s=burst_s,
        endings=endings(everything, world.known),
        num_late=sum(map(_is_late, accepted)),
        num_bare_refusals=sum(one.error is None or "retry-after" not in one.headers for one in refused),
        first_text_p99_s=_p99([(one.first_s or np.inf) - one.answer.began_s for one in accepted]),
        longest_s=max(map(_took_s, accepted), default=0.0),
        refused_p99_ms=_p99([float(one.headers.get("openai-processing-ms", "inf")) for one in refused]),
        refused_p99_client_ms=1000 * _p99([_took_s(one) for one in refused]),
        modest_asked=len(replies["modest"]),
        modest_answered=num_whole["modest"],
        greedy_asked=len(replies["greedy"]),
        greedy_answered=num_whole["greedy"],
        growth=grown,
        recovered_s=recovered_s,
        freed_s=free_s,
        examples=[one.told() for one in itertools.islice(bad, 8)],
    )


def _is_late(reply: Reply) -> bool:
    """By the deadlines of the table, which begin when the router has the request."""
    began_s = reply.answer.began_s
    first_in_time = reply.first_s is not None and reply.first_s - began_s <= QUEUE_S + FIRST_TOKEN_S
    return not first_in_time or _took_s(reply) > QUEUE_S + TOTAL_S


def _took_s(reply: Reply) -> float:
    return reply.answer.ended_s - reply.answer.began_s


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if values else 0.0
