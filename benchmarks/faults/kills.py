"""SIGKILL: a random replica every few seconds, and once a whole node, while clients stream."""

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

from benchmarks.faults.replicas import Replica
from benchmarks.faults.replies import Ending, Known, Reply, ask_all, client, endings, not_whole
from benchmarks.faults.world import World
from cluster.errors import ServeUnreachable
from cluster.serve_config import ROUTER_APP

SEE_S = 1.0
LOOK_S = 0.25
# From a router's death until the proxy has told every client that it broke off.
BREAK_S = 2.0


@dataclass(frozen=True)
class KillsReport:
    """`num_router_died`: requests whose connection broke because their router was killed, the only ones that
    may. `away_s`: by application, how long all of its replicas were away at once."""

    num_requests: int
    took_s: float
    num_kills: dict[str, int]
    num_nodes_to_kill: int
    num_nodes_killed: int
    endings: dict[str, int]
    num_router_died: int
    num_proxy_500: int
    num_unexplained: int
    away_s: dict[str, float]
    median_s: float
    longest_s: float
    longest_pause_s: float
    examples: list[str]

    def broken(self) -> list[str]:
        allowed = (Ending.WHOLE, Ending.BROKEN)
        told = [f"{num} answers {end}" for end, num in self.endings.items() if num and end not in allowed]
        if not self.num_kills:
            told.append("nothing was killed, so nothing was shown")
        if self.num_nodes_killed < self.num_nodes_to_kill:
            told.append("all answers had ended before a node was to be killed; ask for more")
        if self.num_unexplained:
            told.append(f"{self.num_unexplained} connections broke though no router had died")
        return told


@dataclass
class Kills:
    """What was killed, from when to when in seconds of time.monotonic(), and how long what was away. `seen`:
    the replicas that Serve told of last; it is slow to tell while everything restarts."""

    killed: list[tuple[str, float, float]] = field(default_factory=list)
    num_nodes_to_kill: int = 0
    num_nodes: int = 0
    away_s: dict[str, float] = field(default_factory=dict)
    seen: list[Replica] = field(default_factory=list)

    @property
    def alive(self) -> list[Replica]:
        return [one for one in self.seen if one.lives]

    def victim(self, chance: random.Random) -> Replica | None:
        """One that has a sibling: two cores cannot start everything anew every few seconds, and a model that
        is away for good shows nothing. The loss of a node takes both of some."""
        by_app: dict[str, list[Replica]] = {}
        for one in self.alive:
            by_app.setdefault(one.app, []).append(one)
        siblings = [some for _, some in sorted(by_app.items()) if len(some) > 1]
        return chance.choice(chance.choice(siblings)) if siblings else None

    def explains(self, reply: Reply) -> bool:
        """Whether a router died while the request was open, shortly before its connection broke."""
        answer = reply.answer
        return any(
            app == ROUTER_APP
            and answer.began_s <= until_s + BREAK_S
            and from_s <= answer.ended_s <= until_s + BREAK_S
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
    """`node_after_s`: when a whole node goes; another joins afterwards. None: no node goes."""
    await world.learn_known(world.questions, num_at_once)
    questions = list(itertools.islice(itertools.cycle(world.questions), num_requests))
    random.Random(seed).shuffle(questions)
    async with client(world.url) as http, killing(world, period_s, seed, node_after_s) as done:
        began_s = time.monotonic()
        replies = await ask_all(http, questions, num_at_once)
        took_s = time.monotonic() - began_s
    await world.settled()
    return report_of(replies, world.known, done, took_s)


@asynccontextmanager
async def killing(
    world: World, period_s: float, seed: int, node_after_s: float | None = None
) -> AsyncIterator[Kills]:
    """Kills go on while the block runs."""
    done = Kills(seen=world.running(), num_nodes_to_kill=int(node_after_s is not None))
    tasks = [
        asyncio.create_task(_kill_replicas(period_s, random.Random(seed), done)),
        asyncio.create_task(_see(world, done)),
        asyncio.create_task(_look(done)),
    ]
    if node_after_s is not None:
        tasks.append(asyncio.create_task(_kill_node(world, node_after_s, done)))
    try:
        yield done
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _kill_replicas(period_s: float, chance: random.Random, done: Kills) -> None:
    next_s = time.monotonic()
    while True:
        next_s += period_s
        await asyncio.sleep(next_s - time.monotonic())
        victim = done.victim(chance)
        if victim and victim.send(signal.SIGKILL):
            done.killed.append((victim.app, now_s := time.monotonic(), now_s))


async def _kill_node(world: World, after_s: float, done: Kills) -> None:
    await asyncio.sleep(after_s)
    name = next(iter(world.nodes.nodes))
    on_it = done.alive
    at_s = time.monotonic()
    node = await asyncio.to_thread(world.nodes.kill, name)
    done.num_nodes += 1
    # A node ends process by process.
    done.killed += [(one.app, at_s, time.monotonic()) for one in on_it if one.node_id == node.id]
    await world.add_node()


async def _see(world: World, done: Kills) -> None:
    while True:
        with suppress(ServeUnreachable):
            done.seen = await asyncio.to_thread(world.running)
        await asyncio.sleep(SEE_S)


async def _look(done: Kills) -> None:
    """By process; who is new counts from when Serve tells of it."""
    apps, last_s = {one.app for one in done.seen}, time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        now_s = time.monotonic()
        for app in apps - {one.app for one in done.alive}:
            done.away_s[app] = done.away_s.get(app, 0.0) + now_s - last_s
        last_s = now_s


def report_of(replies: Sequence[Reply], known: Known, done: Kills, took_s: float) -> KillsReport:
    broke = [one for one in replies if one.ending(known) is Ending.BROKEN]
    explained = [one for one in broke if done.explains(one)]
    taken_s = sorted(one.answer.ended_s - one.answer.began_s for one in replies)
    return KillsReport(
        num_requests=len(replies),
        took_s=took_s,
        num_kills=dict(Counter(app for app, _, _ in done.killed)),
        num_nodes_to_kill=done.num_nodes_to_kill,
        num_nodes_killed=done.num_nodes,
        endings=endings(replies, known),
        num_router_died=len(explained),
        num_proxy_500=sum(one.status >= 500 for one in explained),
        num_unexplained=len(broke) - len(explained),
        away_s=dict(sorted(done.away_s.items())),
        median_s=taken_s[len(taken_s) // 2],
        longest_s=taken_s[-1],
        longest_pause_s=max(one.longest_pause_s for one in replies),
        examples=not_whole(replies, known),
    )
