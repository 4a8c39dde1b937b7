"""SIGKILL: a random replica every few seconds and one whole node, while clients stream."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.chaos.replicas import Replica
from benchmarks.chaos.replies import Ending, Known, Reply, ask_all, client, endings, failure_examples
from benchmarks.chaos.world import World
from cluster.errors import ServeUnreachable
from cluster.serve.app_names import ROUTER_APP

SERVE_POLL_S = 1.0
PROCESS_POLL_S = 0.25
# From a router's death until the proxy has closed the connection of every client.
DISCONNECT_S = 2.0


@dataclass(frozen=True)
class KillsReport:
    """`num_router_died`: requests whose connection broke because their router was killed. No other connection
    may break. `unavailable_s`: by application, how long it had no replica."""

    num_requests: int
    took_s: float
    num_kills: dict[str, int]
    num_nodes_to_kill: int
    num_nodes_killed: int
    endings: dict[str, int]
    num_router_died: int
    num_proxy_500: int
    num_unexplained: int
    unavailable_s: dict[str, float]
    median_s: float
    longest_s: float
    longest_pause_s: float
    examples: list[str]

    def broken(self) -> list[str]:
        allowed = (Ending.WHOLE, Ending.BROKEN)
        problems = [f"{num} answers {end}" for end, num in self.endings.items() if num and end not in allowed]
        if not self.num_kills:
            problems.append("nothing was killed, so nothing was tested")
        if self.num_nodes_killed < self.num_nodes_to_kill:
            problems.append("all answers ended before the node was killed; send more requests")
        if self.num_unexplained:
            problems.append(f"{self.num_unexplained} connections broke although no router had died")
        return problems


@dataclass
class Kills:
    """`killed`: application, begin and end of each kill. `unavailable_s`: as in the report. `replicas`: those
    that Serve reported last; its reports are late while everything restarts. Times: time.monotonic()."""

    killed: list[tuple[str, float, float]] = field(default_factory=list)
    num_nodes_to_kill: int = 0
    num_nodes: int = 0
    unavailable_s: dict[str, float] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.lives]

    def victim(self, rng: random.Random) -> Replica | None:
        """A replica whose application has another one. Two cores restart replicas slowly, and a model without
        replicas tests nothing. The killed node removes both replicas of some applications."""
        by_app: dict[str, list[Replica]] = {}
        for replica in self.alive:
            by_app.setdefault(replica.app, []).append(replica)
        siblings = [replicas for _, replicas in sorted(by_app.items()) if len(replicas) > 1]
        return rng.choice(rng.choice(siblings)) if siblings else None

    def explains(self, reply: Reply) -> bool:
        """Whether a router died while the request was open and shortly before its connection broke."""
        answer = reply.answer
        return any(
            app == ROUTER_APP
            and answer.began_s <= until_s + DISCONNECT_S
            and from_s <= answer.ended_s <= until_s + DISCONNECT_S
            for app, from_s, until_s in self.killed
        )


async def kills(
    world: World,
    *,
    num_requests: int,
    num_at_once: int,
    period_s: float,
    seed: int,
    node_after_s: float | None = None,
) -> KillsReport:
    """`node_after_s`: when a whole node is killed; a new one joins afterwards. None: no node is killed."""
    await world.record_known_answers(world.questions, num_at_once)
    questions = list(itertools.islice(itertools.cycle(world.questions), num_requests))
    random.Random(seed).shuffle(questions)
    async with client(world.url) as http, killing(world, period_s, seed, node_after_s) as record:
        began_s = time.monotonic()
        replies = await ask_all(http, questions, num_at_once)
        took_s = time.monotonic() - began_s
    await world.settled()
    return report_of(replies, world.known, record, took_s)


@asynccontextmanager
async def killing(
    world: World, period_s: float, seed: int, node_after_s: float | None = None
) -> AsyncIterator[Kills]:
    """Replicas are killed while the block runs."""
    record = Kills(replicas=world.running(), num_nodes_to_kill=int(node_after_s is not None))
    tasks = [
        asyncio.create_task(_kill_replicas(period_s, random.Random(seed), record)),
        asyncio.create_task(_poll_serve(world, record)),
        asyncio.create_task(_poll_processes(record)),
    ]
    if node_after_s is not None:
        tasks.append(asyncio.create_task(_kill_node(world, node_after_s, record)))
    try:
        yield record
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _kill_replicas(period_s: float, rng: random.Random, record: Kills) -> None:
    next_s = time.monotonic()
    while True:
        next_s += period_s
        await asyncio.sleep(next_s - time.monotonic())
        victim = record.victim(rng)
        if victim and victim.send(signal.SIGKILL):
            record.killed.append((victim.app, now_s := time.monotonic(), now_s))


async def _kill_node(world: World, after_s: float, record: Kills) -> None:
    await asyncio.sleep(after_s)
    name = next(iter(world.nodes.nodes))
    alive = record.alive
    kill_began_s = time.monotonic()
    node = await asyncio.to_thread(world.nodes.kill, name)
    record.num_nodes += 1
    kill_ended_s = time.monotonic()  # the processes of a node end one by one
    record.killed += [
        (replica.app, kill_began_s, kill_ended_s) for replica in alive if replica.node_id == node.id
    ]
    await world.add_node()


async def _poll_serve(world: World, record: Kills) -> None:
    while True:
        with suppress(ServeUnreachable):
            record.replicas = await asyncio.to_thread(world.running)
        await asyncio.sleep(SERVE_POLL_S)


async def _poll_processes(record: Kills) -> None:
    """Add up the times without a live process. A new replica counts when Serve has reported it."""
    apps, last_s = {replica.app for replica in record.replicas}, time.monotonic()
    while True:
        await asyncio.sleep(PROCESS_POLL_S)
        now_s = time.monotonic()
        for app in apps - {replica.app for replica in record.alive}:
            record.unavailable_s[app] = record.unavailable_s.get(app, 0.0) + now_s - last_s
        last_s = now_s


def report_of(replies: Sequence[Reply], known: Known, record: Kills, took_s: float) -> KillsReport:
    broken = [reply for reply in replies if reply.ending(known) is Ending.BROKEN]
    explained = [reply for reply in broken if record.explains(reply)]
    durations_s = sorted(reply.answer.ended_s - reply.answer.began_s for reply in replies)
    return KillsReport(
        num_requests=len(replies),
        took_s=took_s,
        num_kills=dict(Counter(app for app, _, _ in record.killed)),
        num_nodes_to_kill=record.num_nodes_to_kill,
        num_nodes_killed=record.num_nodes,
        endings=endings(replies, known),
        num_router_died=len(explained),
        num_proxy_500=sum(reply.status >= 500 for reply in explained),
        num_unexplained=len(broken) - len(explained),
        unavailable_s=dict(sorted(record.unavailable_s.items())),
        median_s=durations_s[len(durations_s) // 2],
        longest_s=durations_s[-1],
        longest_pause_s=max(reply.longest_pause_s for reply in replies),
        examples=failure_examples(replies, known),
    )
