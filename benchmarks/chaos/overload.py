"""Ten times the load that the cluster can take, by three clients with a key each: one is greedy, one modest,
and the key of one has a lower priority."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import httpx
import numpy as np

from benchmarks.chaos.clients import asking
from benchmarks.chaos.idle import freed_s
from benchmarks.chaos.overload_report import GREEDY, LATER, MAX_RSS_GROWTH, MODEST, OverloadReport
from benchmarks.chaos.replicas import ProcessSize, Replica, growth, sizes
from benchmarks.chaos.replies import Ending, Reply, ask, client, endings
from benchmarks.chaos.world import MAX_STREAMS, Settings, World, polled
from benchmarks.hot_change.answers import Question
from cluster.config.api_key_file import create_key

LONG_TOKENS = 200  # with shorter answers, two cores would be busy with the refusals alone
LOAD_FACTOR = 10
SMALL_LOAD = 0.4  # of the capacity: less than the modest client's fair share, which is half
QUEUE_S, FIRST_TOKEN_S, TOTAL_S = 16.0, 20.0, 120.0
EXPERT_STREAMS = 4  # per replica of an expert: few, so that the burst is longer than several answers
RULES: Settings = {
    ("routing", "deadlines", "queue_s"): QUEUE_S,
    ("routing", "deadlines", "first_token_s"): FIRST_TOKEN_S,
    ("routing", "deadlines", "gap_s"): FIRST_TOKEN_S,
    ("routing", "deadlines", "total_s"): TOTAL_S,
    ("routing", "heartbeat_s"): 2 * QUEUE_S,
}
PRIORITIES = {GREEDY: 0, MODEST: 0, LATER: 10}
SETTLE_S = 20.0
RECOVER_TIMEOUT_S = 120.0
CAPACITY_TIMEOUT_S = 120.0


async def overload(world: World, *, burst_s: float, measure_s: float) -> OverloadReport:
    """`measure_s`: the shortest time for which the capacity is measured first."""
    before_text = world.path.read_text(encoding="utf-8")
    experts = sorted({question.topic for question in world.questions if question.topic is not None})
    questions = [question for expert in experts for question in world.of(expert, LONG_TOKENS)]
    await world.record_known_answers(questions, 2 * MAX_STREAMS)
    keys_path = world.path.with_name("keys.yaml")
    keys = {
        name: create_key(keys_path, name, {"priority": priority}) for name, priority in PRIORITIES.items()
    }
    await world.change(
        {
            **RULES,
            **{("experts", expert, "engine", "max_streams"): EXPERT_STREAMS for expert in experts},
            ("http", "keys_file"): str(keys_path),
        }
    )
    try:
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(client(world.url, key)) for name, key in keys.items()
            }
            return await _measure(world, clients, questions, burst_s, measure_s)
    finally:
        await world.restore(before_text)
        keys_path.unlink()


async def _measure(
    world: World,
    clients: Mapping[str, httpx.AsyncClient],
    questions: Sequence[Question],
    burst_s: float,
    measure_s: float,
) -> OverloadReport:
    capacity = await _capacity(clients[GREEDY], questions, measure_s)
    await freed_s(clients[GREEDY], time.monotonic())
    replicas = world.running()
    before = sizes(replicas)
    small = SMALL_LOAD * capacity
    rates = {GREEDY: LOAD_FACTOR * capacity - 2 * small, MODEST: small, LATER: small}
    async with asyncio.TaskGroup() as tasks:
        asked = {
            name: tasks.create_task(_open_loop(http, questions, rates[name], burst_s))
            for name, http in clients.items()
        }
        await asyncio.sleep(burst_s)
        recovered_s = await _recovery_s(clients[MODEST], questions[0], world)
    free_s = await freed_s(clients[GREEDY], time.monotonic())
    after = await _sizes_when_settled(replicas, before)
    replies = {name: task.result() for name, task in asked.items()}
    return _report(world, replies, capacity, burst_s, growth(before, after), recovered_s, free_s)


async def _capacity(http: httpx.AsyncClient, questions: Sequence[Question], measure_s: float) -> float:
    """Answers per second while every slot is in use and no call waits long.

    Answers of equal length end in waves, so at least one answer of every client is counted.
    """
    async with asking(http, questions, MAX_STREAMS) as replies:
        began_s = time.monotonic()

        async def is_measured() -> bool:
            return len(replies) >= MAX_STREAMS and time.monotonic() - began_s >= measure_s

        await polled(is_measured, "the cluster did not answer all clients", CAPACITY_TIMEOUT_S)
        return len(replies) / (time.monotonic() - began_s)


async def _open_loop(
    http: httpx.AsyncClient, questions: Sequence[Question], rate_per_s: float, burst_s: float
) -> list[Reply]:
    """Send questions at a fixed rate, without waiting for answers."""
    began_s = time.monotonic()
    asked: list[asyncio.Task[Reply]] = []
    async with asyncio.TaskGroup() as tasks:
        for i, question in zip(range(int(rate_per_s * burst_s)), itertools.cycle(questions), strict=False):
            await asyncio.sleep(began_s + i / rate_per_s - time.monotonic())
            asked.append(tasks.create_task(ask(http, question)))
    return [task.result() for task in asked]


async def _recovery_s(http: httpx.AsyncClient, question: Question, world: World) -> float:
    """Seconds after the burst until the first text of an answer that was then whole."""
    began_s = time.monotonic()
    first_s: float | None = None

    async def is_whole() -> bool:
        nonlocal first_s
        reply = await ask(http, question)
        first_s = reply.first_s
        return reply.ending(world.known) is Ending.WHOLE

    await polled(is_whole, "no whole answer after the burst", RECOVER_TIMEOUT_S)
    assert first_s is not None, "a whole answer has text"
    return first_s - began_s


async def _sizes_when_settled(
    replicas: Sequence[Replica], before: Mapping[Replica, ProcessSize]
) -> dict[Replica, ProcessSize]:
    """The sizes once they are small enough, or after SETTLE_S: memory is given back with a delay."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        after = sizes(replicas)
        if max(growth(before, after).values()) <= MAX_RSS_GROWTH or time.monotonic() > deadline_s:
            return after
        await asyncio.sleep(1.0)


def _report(
    world: World,
    replies: Mapping[str, Sequence[Reply]],
    capacity: float,
    burst_s: float,
    rss_growth: dict[str, float],
    recovered_s: float,
    free_s: float,
) -> OverloadReport:
    everything = [reply for own in replies.values() for reply in own]
    refused = [reply for reply in everything if reply.ending(world.known) is Ending.REFUSED]
    accepted = [reply for reply in everything if reply.status == 200]
    bad = (reply for reply in everything if reply.ending(world.known) not in (Ending.WHOLE, Ending.REFUSED))
    return OverloadReport(
        capacity_per_s=capacity,
        offered_per_s=len(everything) / burst_s,
        burst_s=burst_s,
        endings=endings(everything, world.known),
        num_late=sum(map(_is_late, accepted)),
        num_malformed_refusals=sum(map(_is_malformed, refused)),
        first_text_p99_s=_p99([(reply.first_s or np.inf) - reply.answer.began_s for reply in accepted]),
        longest_s=max(map(_took_s, accepted), default=0.0),
        refused_p99_ms=_p99([float(reply.headers.get("openai-processing-ms", "inf")) for reply in refused]),
        refused_p99_client_ms=1000 * _p99([_took_s(reply) for reply in refused]),
        asked={name: len(own) for name, own in replies.items()},
        answered={name: endings(own, world.known)[Ending.WHOLE] for name, own in replies.items()},
        growth=rss_growth,
        recovered_s=recovered_s,
        freed_s=free_s,
        examples=[reply.describe() for reply in itertools.islice(bad, 8)],
    )


def _is_malformed(refusal: Reply) -> bool:
    return refusal.error is None or "retry-after" not in refusal.headers


def _is_late(reply: Reply) -> bool:
    """By the deadlines of the route table. They begin when the router has the request."""
    began_s = reply.answer.began_s
    first_in_time = reply.first_s is not None and reply.first_s - began_s <= QUEUE_S + FIRST_TOKEN_S
    return not first_in_time or _took_s(reply) > QUEUE_S + TOTAL_S


def _took_s(reply: Reply) -> float:
    return reply.answer.ended_s - reply.answer.began_s


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if values else 0.0
