"""What may happen to hosts and links, and what must hold for answers meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from benchmarks.chaos.clients import asking
from benchmarks.chaos.replies import Ending, Reply, ask, client, endings, failure_examples
from benchmarks.hosts.node import ADDRESSES
from benchmarks.hosts.switch import Link
from benchmarks.hosts.world import CLIENTS, DEADLINES, World, link_of

NUM_CLIENTS = 4
BEFORE_S = 1.0
HOLD_S = 20.0
# An answer has its own deadline, and the router may first need the deadline of silence to notice a fault.
ANSWER_DEADLINE_S = DEADLINES["total_s"] + DEADLINES["first_token_s"]
HEAL_TIMEOUT_S = 240.0
STABLE_S = 5.0
QUICK_S = 5.0
POLL_S = 0.5
# A refusal or an error that says so is allowed; what must never happen is in none of these.
HONEST = (Ending.WHOLE, Ending.REFUSED, Ending.ERROR)

Fault = Callable[[World], AbstractContextManager[object]]


@dataclass(frozen=True)
class FaultReport:
    """`heal_s`: from the end of the fault until everything is as applied and answers quickly, for good."""

    num_by_ending: dict[str, int]
    longest_pause_s: float
    heal_s: float
    examples: list[str]

    def broken(self) -> list[str]:
        bad = {end: num for end, num in self.num_by_ending.items() if num and end not in HONEST}
        problems = [f"answers during the fault: {bad}"] if bad else []
        if not self.num_by_ending[Ending.WHOLE]:
            problems.append("no answer was whole")
        return problems


def cut(*pairs: tuple[str, str]) -> Fault:
    """The links swallow everything, in both directions."""
    return lambda world: world.switch.lossy(*(link for pair in pairs for link in both_ways(*pair)))


def cut_one_way(source: str, target: str) -> Fault:
    return lambda world: world.switch.lossy(link_of(source, target))


def lossy(first: str, second: str, percent: int) -> Fault:
    return lambda world: world.switch.lossy(*both_ways(first, second), percent=percent)


def slow(source: str, target: str, delay_ms: int) -> Fault:
    """Half of the delay is jitter."""
    link, half_ms = link_of(source, target), delay_ms // 2
    return lambda world: world.switch.slow(source, link, half_ms, half_ms)


def thin(name: str, rate: str) -> Fault:
    return lambda world: world.switch.thin(name, rate)


def alone(name: str) -> Fault:
    """The host reaches nothing, and nothing reaches it."""
    return cut(*((name, other) for other in (*ADDRESSES, CLIENTS) if other != name))


FAULTS: dict[str, Fault] = {
    "router - models: cut": cut(("front", "back")),
    "router > models: one way": cut_one_way("front", "back"),
    "models > router: one way": cut_one_way("back", "front"),
    "router - models: 5 % lost": lossy("front", "back", 5),
    "router > models: 100 ms": slow("front", "back", 100),
    "router > models: 300 ms": slow("front", "back", 300),
    "models: 256 kbit/s": thin("back", "256kbit"),
    "client - router: 5 % lost": lossy(CLIENTS, "front", 5),
    "router > client: 300 ms": slow("front", CLIENTS, 300),
    "router - head: cut": cut(("front", "head")),
    "models - head: cut": cut(("back", "head")),
    "head > models: one way": cut_one_way("head", "back"),
    "models: alone": alone("back"),
    "models: frozen": lambda world: world.hosts["back"].frozen(),
    "models: disk full": lambda world: world.hosts["back"].full_disk(),
    "models: restarted": lambda world: _crash(world, "back"),
}


async def measure(world: World, fault: Fault, *, hold_s: float = HOLD_S) -> FaultReport:
    """Clients ask while the fault lasts. Call it from the network of the clients."""
    async with client(world.url()) as http:
        async with asking(http, world.questions, NUM_CLIENTS, ANSWER_DEADLINE_S) as replies:
            await asyncio.sleep(BEFORE_S)
            with ExitStack() as faults:
                await asyncio.to_thread(faults.enter_context, fault(world))
                await asyncio.sleep(hold_s)
            healed_s = time.monotonic()
        heal_s = await _healed(world) - healed_s
    return _report(world, replies, heal_s)


def both_ways(first: str, second: str) -> Sequence[Link]:
    link = link_of(first, second)
    return (link, Link(link.target, link.source))


def _crash(world: World, name: str) -> ExitStack:
    world.hosts[name].crash()
    return ExitStack()


async def _healed(world: World) -> float:
    """When the time began in which everything is as applied and answers quickly. Raises TimeoutError."""
    deadline_s = time.monotonic() + HEAL_TIMEOUT_S
    since_s: float | None = None
    while since_s is None or time.monotonic() - since_s < STABLE_S:
        checked_s = time.monotonic()
        if checked_s > deadline_s:
            raise TimeoutError(f"the cluster has not healed within {HEAL_TIMEOUT_S:g} s")
        is_well = await asyncio.to_thread(world.is_as_applied) and await _answers(world)
        since_s = (since_s or checked_s) if is_well else None
        await asyncio.sleep(POLL_S)
    return since_s


async def _answers(world: World) -> bool:
    """Whether both routers have every model answer."""
    replies: list[Reply] = []
    for name in ("front", "mid"):
        async with client(world.url(name)) as http:
            replies += [await ask(http, question, QUICK_S) for question in world.questions[:2]]
    return all(reply.ending(world.known) is Ending.WHOLE for reply in replies)


def _report(world: World, replies: Sequence[Reply], heal_s: float) -> FaultReport:
    return FaultReport(
        num_by_ending=endings(replies, world.known),
        longest_pause_s=max(reply.longest_pause_s for reply in replies),
        heal_s=heal_s,
        examples=failure_examples(replies, world.known),
    )
