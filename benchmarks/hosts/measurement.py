"""What clients notice of a fault, and how long the cluster needs to heal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.chaos.clients import asking
from benchmarks.chaos.replies import Ending, Reply, ask, client, endings, failure_examples
from benchmarks.hosts.faults import Fault
from benchmarks.hosts.world import DEADLINES, World

NUM_CLIENTS = 16
NUM_STREAMS = 200
BEFORE_S = 1.0
HOLD_S = 12.0
# An answer has its own deadline, and the router may first need the deadline of silence to notice a fault.
ANSWER_DEADLINE_S = DEADLINES["total_s"] + DEADLINES["first_token_s"]
HEAL_TIMEOUT_S = 240.0
STABLE_S = 5.0
QUICK_S = 5.0
POLL_S = 0.5
# A refusal or an error that says so is allowed; what must never happen is in none of these.
HONEST = (Ending.WHOLE, Ending.REFUSED, Ending.ERROR)


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


async def measure(
    world: World, fault: Fault, *, hold_s: float = HOLD_S, num_streams: int = NUM_STREAMS
) -> FaultReport:
    """Clients ask while the fault lasts and the cluster heals, and until there are enough answers.

    Call it from the network of the clients.
    """
    async with (
        client(world.url()) as http,
        asking(http, world.questions, NUM_CLIENTS, ANSWER_DEADLINE_S, num_at_least=num_streams) as replies,
    ):
        await asyncio.sleep(BEFORE_S)
        with ExitStack() as faults:
            await asyncio.to_thread(faults.enter_context, fault(world))
            await asyncio.sleep(hold_s)
        ended_s = time.monotonic()
        heal_s = await _healed(world) - ended_s
    return _report(world, replies, heal_s)


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
