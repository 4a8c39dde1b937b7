"""The control plane is killed: Serve's controller, the store of the cluster (GCS), the whole head.

Answers need none of them, so clients must not notice. What was killed is started again with its own command
line; a head that keeps its store on a disk (`RAY_gcs_storage=rocksdb`) then knows what ran.
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

from benchmarks.faults.clients import asking
from benchmarks.faults.replicas import is_settled, pids
from benchmarks.faults.replies import Reply, client, endings, not_whole, unkept
from benchmarks.faults.world import World, eventually, polled
from benchmarks.hot.answers import Question
from cluster.errors import ServeRefused, ServeUnreachable
from cluster.session import Session

LONG = 150  # tokens
TIMEOUT_S = 240.0
GCS = "gcs_server"
CONTROLLER = "ray::ServeController"


@dataclass(frozen=True)
class HeadReport:
    """`away_s`: from its death until it was started again; `num_away`: answers that were begun meanwhile.
    `back_s`: from its death until Serve says that all of it runs; `applied_s`: what the next apply took."""

    part: str
    away_s: float
    num_away: int
    back_s: float
    pids_kept: bool
    applied_s: float
    longest_pause_s: float
    endings: dict[str, int]
    examples: list[str]

    def broken(self) -> list[str]:
        told = unkept("clients noticed", self.endings)
        if not self.num_away:
            told.append("no answer was begun while it was away, so nothing was shown")
        return told if self.pids_kept else [*told, "replicas were restarted"]


async def controller(world: World, *, num_clients: int) -> HeadReport:
    """Ray starts Serve's controller again by itself."""
    await _learn(world, num_clients)
    found = _process(world, CONTROLLER)
    before = pids(world.running())
    async with client(world.url) as http, asking(http, _questions(world), num_clients) as replies:
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        found.kill()
        await eventually(lambda: _has_another(world, found), "Ray starts no new controller", TIMEOUT_S)
        away_s = time.monotonic() - began_s
        back_s = await _back(world, began_s)
        await asyncio.sleep(1.0)
    return await _report(world, "controller", replies, before, began_s, away_s, back_s)


async def gcs(world: World, *, num_clients: int, away_s: float, log_path: Path) -> HeadReport:
    """`away_s`: how long the head is without its store.

    `ray start --block` ends the whole node when a part of it dies, so it is stopped before, and stays so: the
    cluster can serve on, but nothing of its head can be relied on afterwards.
    """
    await _learn(world, num_clients)
    found = _process(world, GCS)
    command, env, before = found.cmdline(), found.environ(), pids(world.running())
    psutil.Process(world.nodes.head.pid).suspend()
    async with client(world.url) as http, asking(http, _questions(world), num_clients) as replies:
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        found.kill()
        await asyncio.sleep(away_s)
        restarted = Session.start(command, env, log_path, mark=world.nodes.head.temp_dir)
        world.ending.callback(restarted.end)
        back_s = await _back(world, began_s)
        await asyncio.sleep(1.0)
    return await _report(world, "GCS", replies, before, began_s, away_s, back_s)


async def head(world: World, *, num_clients: int, away_s: float, log_path: Path) -> HeadReport:
    """Every process of the head node, its proxy too: for a world whose clients ask another node."""
    await _learn(world, num_clients)
    session = world.nodes.head.session
    leader = psutil.Process(session.pid)
    command, env, before = leader.cmdline(), leader.environ(), pids(world.running())
    async with client(world.url) as http, asking(http, _questions(world), num_clients) as replies:
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        await asyncio.to_thread(_kill, session)
        await asyncio.sleep(away_s)
        supervising = asyncio.create_task(
            _supervise(world, lambda: Session.start(command, env, log_path, mark=session.mark))
        )
        try:
            back_s = await _back(world, began_s)
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        await asyncio.sleep(1.0)
    return await _report(world, "head", replies, before, began_s, away_s, back_s)


async def _supervise(world: World, start: Callable[[], Session]) -> None:
    """As systemd or a kubelet: a start that fails, because Ray has little patience, is repeated."""
    while True:
        session = start()
        world.ending.callback(session.end)
        await _ended(session)
        await asyncio.to_thread(session.end)


async def _ended(session: Session) -> None:
    async def is_gone() -> bool:
        return not await asyncio.to_thread(session.runs)

    await polled(is_gone, "the head runs", inf)


def _kill(session: Session) -> None:
    """As when a machine loses power."""
    for process in session.processes():
        process.suspend()
    for process in session.processes():
        process.kill()
    psutil.wait_procs(session.processes(), timeout=10)
    # Or Ray, which sees its workers on this machine, says that the head runs already.
    Path(session.mark, "ray_current_cluster").unlink()


def _questions(world: World) -> list[Question]:
    return [*world.of("roman", LONG), *world.of("capitals", LONG), *world.of(None)]


async def _learn(world: World, num_clients: int) -> None:
    await world.learn_known(_questions(world), num_clients)


def _process(world: World, title: str) -> psutil.Process:
    """The head's process of that name. Raises RuntimeError if there is none."""
    for process in world.nodes.head.session.processes():
        with suppress(psutil.Error):
            if title in process.name() or any(title in part for part in process.cmdline()[:1]):
                return process
    raise RuntimeError(f"the head has no process '{title}'")


def _has_another(world: World, old: psutil.Process) -> bool:
    with suppress(RuntimeError):
        return _process(world, CONTROLLER).pid != old.pid
    return False


async def _back(world: World, began_s: float) -> float:
    def is_back() -> bool:
        with suppress(ServeUnreachable, ServeRefused):
            return bool(world.running()) and is_settled(world.client)
        return False

    await eventually(is_back, "Serve does not come back", TIMEOUT_S)
    return time.monotonic() - began_s


async def _report(
    world: World,
    part: str,
    replies: Sequence[Reply],
    before: dict[str, list[int]],
    began_s: float,
    away_s: float,
    back_s: float,
) -> HeadReport:
    applying_s = time.monotonic()
    await world.change({("routing", "heartbeat_s"): 9.0})
    applied_s = time.monotonic() - applying_s
    num_away = sum(began_s < one.answer.began_s < began_s + away_s for one in replies)
    return HeadReport(
        part=part,
        away_s=away_s,
        num_away=num_away,
        back_s=back_s,
        pids_kept=pids(world.running()) == before,
        applied_s=applied_s,
        longest_pause_s=max(one.longest_pause_s for one in replies),
        endings=endings(replies, world.known),
        examples=not_whole(replies, world.known),
    )
