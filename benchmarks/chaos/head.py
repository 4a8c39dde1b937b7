"""The control plane is killed: Serve's controller, the cluster's store (GCS), the whole head.

Answers need none of them, so clients must not notice. What was killed is restarted with its own command line.
A head that keeps its store on disk (`RAY_gcs_storage=rocksdb`) then knows what ran.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

import psutil

from benchmarks.chaos.clients import asking
from benchmarks.chaos.replicas import is_settled, pids
from benchmarks.chaos.replies import Reply, broken_promises, client, endings, failure_examples
from benchmarks.chaos.world import World, eventually, polled
from benchmarks.hot_change.answers import Question
from cluster.errors import ServeRefused, ServeUnreachable
from cluster.local.process_session import Session

LONG_TOKENS = 150
TIMEOUT_S = 240.0
GCS = "gcs_server"
CONTROLLER = "ray::ServeController"


@dataclass(frozen=True)
class HeadReport:
    """`part`: what was killed. `down_s`: from its death to its restart. `num_begun_while_down`: answers that
    began in this time. `recovered_s`: from its death until Serve reports that everything runs. `applied_s`:
    how long the next apply took."""

    part: str
    down_s: float
    num_begun_while_down: int
    recovered_s: float
    pids_kept: bool
    applied_s: float
    longest_pause_s: float
    endings: dict[str, int]
    examples: list[str]

    def broken(self) -> list[str]:
        problems = broken_promises("clients noticed", self.endings)
        if not self.num_begun_while_down:
            problems.append(f"no answer began while the {self.part} was down, so nothing was tested")
        return problems if self.pids_kept else [*problems, "replicas were restarted"]


async def controller(world: World, *, num_clients: int) -> HeadReport:
    """Kills Serve's controller. Ray restarts it by itself."""
    await _record_known_answers(world, num_clients)
    process = _process(world, CONTROLLER)
    before = pids(world.running())
    async with client(world.url) as http, asking(http, _questions(world), num_clients) as replies:
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        process.kill()
        await eventually(
            lambda: _has_new_controller(world, process), "Ray started no new controller", TIMEOUT_S
        )
        down_s = time.monotonic() - began_s
        recovered_s = await _wait_until_recovered(world, began_s)
        await asyncio.sleep(1.0)
    return await _report(world, "controller", replies, before, began_s, down_s, recovered_s)


async def gcs(world: World, *, num_clients: int, down_s: float, log_path: Path) -> HeadReport:
    """Kills the store and restarts it `down_s` later.

    `ray start --block` would end the whole node when a part of it dies, so it is suspended first and stays
    suspended. The cluster still serves, but its head can only be stopped afterwards.
    """
    await _record_known_answers(world, num_clients)
    process = _process(world, GCS)
    command, env, before = process.cmdline(), process.environ(), pids(world.running())
    psutil.Process(world.nodes.head.pid).suspend()
    async with client(world.url) as http, asking(http, _questions(world), num_clients) as replies:
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        process.kill()
        await asyncio.sleep(down_s)
        restarted = Session.start(command, env, log_path, mark=world.nodes.head.temp_dir)
        world.ending.callback(restarted.end)
        recovered_s = await _wait_until_recovered(world, began_s)
        await asyncio.sleep(1.0)
    return await _report(world, "GCS", replies, before, began_s, down_s, recovered_s)


async def head(world: World, *, num_clients: int, down_s: float, log_path: Path) -> HeadReport:
    """Kills every process of the head node, with its proxy. Clients must send to another node."""
    await _record_known_answers(world, num_clients)
    session = world.nodes.head.session
    leader = psutil.Process(session.pid)
    command, env, before = leader.cmdline(), leader.environ(), pids(world.running())
    async with client(world.url) as http, asking(http, _questions(world), num_clients) as replies:
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        await asyncio.to_thread(_kill, session)
        await asyncio.sleep(down_s)
        supervising = asyncio.create_task(
            _supervise(world, lambda: Session.start(command, env, log_path, mark=session.mark))
        )
        try:
            recovered_s = await _wait_until_recovered(world, began_s)
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        await asyncio.sleep(1.0)
    return await _report(world, "head", replies, before, began_s, down_s, recovered_s)


async def _supervise(world: World, start: Callable[[], Session]) -> None:
    """Like systemd or a kubelet: restart the head until it stays up. Ray gives up quickly at the start."""
    while True:
        session = start()
        world.ending.callback(session.end)
        await _wait_until_ended(session)
        await asyncio.to_thread(session.end)


async def _wait_until_ended(session: Session) -> None:
    async def is_gone() -> bool:
        return not await asyncio.to_thread(session.runs)

    await polled(is_gone, "the head did not end", inf)


def _kill(session: Session) -> None:
    """Like a machine that loses power."""
    for process in session.processes():
        process.suspend()
    for process in session.processes():
        process.kill()
    psutil.wait_procs(session.processes(), timeout=10)
    # Otherwise Ray sees its workers on this machine and says that the head runs already.
    Path(session.mark, "ray_current_cluster").unlink()


def _questions(world: World) -> list[Question]:
    return [*world.of("roman", LONG_TOKENS), *world.of("capitals", LONG_TOKENS), *world.of(None)]


async def _record_known_answers(world: World, num_clients: int) -> None:
    await world.record_known_answers(_questions(world), num_clients)


def _process(world: World, title: str) -> psutil.Process:
    """The head's process with this name. Raises RuntimeError if there is none."""
    for process in world.nodes.head.session.processes():
        with suppress(psutil.Error):
            if title in process.name() or any(title in part for part in process.cmdline()[:1]):
                return process
    raise RuntimeError(f"the head has no process '{title}'")


def _has_new_controller(world: World, old: psutil.Process) -> bool:
    with suppress(RuntimeError):
        return _process(world, CONTROLLER).pid != old.pid
    return False


async def _wait_until_recovered(world: World, began_s: float) -> float:
    def is_recovered() -> bool:
        with suppress(ServeUnreachable, ServeRefused):
            return bool(world.running()) and is_settled(world.client)
        return False

    await eventually(is_recovered, "Serve did not recover", TIMEOUT_S)
    return time.monotonic() - began_s


async def _report(
    world: World,
    part: str,
    replies: Sequence[Reply],
    before: dict[str, list[int]],
    began_s: float,
    down_s: float,
    recovered_s: float,
) -> HeadReport:
    apply_began_s = time.monotonic()
    await world.change({("routing", "heartbeat_s"): 9.0})
    applied_s = time.monotonic() - apply_began_s
    num_begun_while_down = sum(began_s < reply.answer.began_s < began_s + down_s for reply in replies)
    return HeadReport(
        part=part,
        down_s=down_s,
        num_begun_while_down=num_begun_while_down,
        recovered_s=recovered_s,
        pids_kept=pids(world.running()) == before,
        applied_s=applied_s,
        longest_pause_s=max(reply.longest_pause_s for reply in replies),
        endings=endings(replies, world.known),
        examples=failure_examples(replies, world.known),
    )
