"""Replicas that are told to leave: a node is drained, an expert scaled down or removed, under load."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio import Task
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any

import httpx
import psutil

from benchmarks.faults.clients import asking
from benchmarks.faults.replies import Known, Reply, ask, client, endings, not_whole, unkept
from benchmarks.faults.world import DEADLINES, LAYERS, World, eventually, polled
from benchmarks.hot.answers import Question
from cluster.serve_config import ROUTER_APP, expert_app
from cluster.session import until
from cluster.status import status
from cluster.yaml_edit import remove_expert
from tests.raylets import Node

LONG = 150  # tokens
VERY_LONG = 400  # more than a short drain leaves time for
NUM_CLIENTS = 6
NUM_EACH = 3  # how often each of these is asked at once, so that they last
# As long as a pod has by default: then Serve starts the others before it stops these.
DRAIN_S = int(DEADLINES["total_s"] + DEADLINES["wake_s"]) + 30
SHORT_DRAIN_S = 2
BEGIN_S = 1.5  # until every question is being answered
TIMEOUT_S = 180.0
LOADED = "from ray.scripts.scripts import main; print(flush=True); input(); main()"
Change = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Step:
    """One change under load. `num_under_way`: answers that had begun before it and ended after it had begun;
    `took_s`: until it was done."""

    endings: dict[str, int]
    num_under_way: int
    took_s: float
    longest_pause_s: float
    examples: list[str]

    def unkept(self, name: str) -> list[str]:
        if sum(self.endings.values()) and not self.num_under_way:
            return [f"{name}: no answer was under way, so nothing was shown"]
        return unkept(name, self.endings)


@dataclass(frozen=True)
class DrainReport:
    """`left_s`: how long the drained node's replicas went on. `num_cut_off`: at least so many answers lost
    their writer with the node that was drained too soon."""

    drained: Step
    left_s: float
    drained_too_soon: Step
    num_cut_off: int
    scaled_down: Step
    removed: Step

    def broken(self) -> list[str]:
        steps = {name: value for name, value in vars(self).items() if isinstance(value, Step)}
        told = [line for name, step in steps.items() for line in step.unkept(name)]
        if self.left_s >= DRAIN_S:
            told.append(f"drained: replicas were still there after {DRAIN_S} s")
        return told if self.num_cut_off else [*told, "drained_too_soon: no answer lost its writer"]


@dataclass(frozen=True)
class _Watched:
    replies: Sequence[Reply]
    began_s: float
    took_s: float

    def step(self, known: Known) -> Step:
        return Step(
            endings=endings(self.replies, known),
            num_under_way=sum(one.answer.began_s < self.began_s < one.answer.ended_s for one in self.replies),
            took_s=self.took_s,
            longest_pause_s=max((one.longest_pause_s for one in self.replies), default=0.0),
            examples=not_whole(self.replies, known),
        )


@dataclass
class _Leaver:
    """A node that is to go. `num_written`: answers that its replicas wrote when it was told. Times are of
    time.monotonic(); when it is `gone_s`, nothing runs on it."""

    name: str
    node: Node
    seconds: int
    draining: Process
    num_written: int = 0
    told_s: float = inf
    gone_s: float = inf

    def num_cut_off(self, replies: Sequence[Reply]) -> int:
        """Whoever ended before may have been written on it, so this is the least."""
        return max(0, self.num_written - sum(one.answer.ended_s < self.gone_s for one in replies))


async def drain(world: World) -> DrainReport:
    """Needs two nodes or more. The world is as before afterwards, but two nodes are others."""
    roman, capitals = (world.of(topic, VERY_LONG)[: NUM_CLIENTS // 2] for topic in ("roman", "capitals"))
    long = [*world.of("roman", LONG), *world.of("capitals", LONG), *world.of(None)]
    await world.learn_known([*long, *roman, *capitals], NUM_CLIENTS)
    for _ in range(2):  # before there is load, under which Ray gives a node too little time to start
        await world.add_node()
    leaver = await _leaver(world, DRAIN_S)
    drained = await _while_asked(world, long, lambda: _leave(world, leaver))
    hasty = await _leaver(world, SHORT_DRAIN_S)
    too_soon = await _while_written(world, [*roman, *capitals] * NUM_EACH, lambda: _leave(world, hasty))
    scaled_down = await _while_asked(world, world.of("roman", LONG), lambda: _scale(world, "roman", 1))
    await _scale(world, "roman", 2)
    before = world.path.read_text(encoding="utf-8")
    removed = await _while_written(world, capitals * NUM_EACH, lambda: _remove(world, "capitals"))
    await world.restore(before)
    return DrainReport(
        drained=drained.step(world.known),
        left_s=leaver.gone_s - leaver.told_s,
        drained_too_soon=too_soon.step(world.known),
        num_cut_off=hasty.num_cut_off(too_soon.replies),
        scaled_down=scaled_down.step(world.known),
        removed=removed.step(world.known),
    )


async def _while_asked(world: World, questions: Sequence[Question], change: Change) -> _Watched:
    """Clients ask again and again until the change is done."""
    async with client(world.url) as http, asking(http, questions, NUM_CLIENTS) as replies:
        await asyncio.sleep(BEGIN_S)
        began_s = time.monotonic()
        await change()
        took_s = time.monotonic() - began_s
    return _Watched(replies, began_s, took_s)


async def _while_written(world: World, questions: Sequence[Question], change: Change) -> _Watched:
    """Every question is asked once, and is being answered when the change begins."""
    async with client(world.url) as http:
        asked = [asyncio.create_task(ask(http, question)) for question in questions]
        await polled(lambda: _are_written(http, asked), "not every answer begins", TIMEOUT_S)
        began_s = time.monotonic()
        try:
            await change()
            took_s = time.monotonic() - began_s
        finally:
            replies = await asyncio.gather(*asked)
    return _Watched(replies, began_s, took_s)


async def _are_written(http: httpx.AsyncClient, asked: Sequence[Task[Reply]]) -> bool:
    num_written = sum(one["num_running"] for one in await _loads(http))
    return num_written >= len(asked) or any(task.done() for task in asked)


async def _leaver(world: World, seconds: int) -> _Leaver:
    """The node with most replicas of experts, of those without a router: that one holds the connections of
    clients, so its answers cannot go on elsewhere when the time is too short. Raises RuntimeError."""
    replicas = world.running()
    routed = {one.node_id for one in replicas if one.app == ROUTER_APP}
    writing = Counter(one.node_id for one in replicas if one.app in map(expert_app, LAYERS))
    nodes = [item for item in world.nodes.nodes.items() if item[1].id in writing.keys() - routed]
    if not nodes:
        raise RuntimeError("every node with an expert has a router too")
    name, node = max(nodes, key=lambda item: writing[item[1].id])
    return _Leaver(name, node, seconds, await _loaded(world, node, seconds))


async def _leave(world: World, leaver: _Leaver) -> None:
    """As a pod's preStop: drained, then gone, whatever still runs on it."""
    leaver.num_written = await _num_written(world, leaver.node)
    await _run(leaver.draining)
    leaver.told_s = time.monotonic()
    await asyncio.to_thread(until, lambda: not _serves(leaver.node), leaver.seconds)
    leaver.gone_s = time.monotonic()
    await asyncio.to_thread(world.nodes.kill, leaver.name)
    await world.settled()


async def _num_written(world: World, node: Node) -> int:
    apps = await asyncio.to_thread(status, world.client)
    here = {one.id for app in apps for one in app.replicas if one.node_id == node.id}
    async with client(world.url) as http:
        return sum(one["num_running"] for one in await _loads(http) if one["replica"] in here)


async def _loads(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """What the experts' replicas say of themselves."""
    models = (await http.get("/stats")).raise_for_status().json()["models"]
    return [one for expert in LAYERS if (model := models.get(expert)) for one in model["replicas"]]


async def _loaded(world: World, node: Node, seconds: int) -> Process:
    """`ray drain-node`, as k8s/bin/drain calls it, that waits for a line: its imports take as long as an
    answer."""
    command = [sys.executable, "-P", "-c", LOADED, "drain-node", "--node-id", node.id]
    command += ["--address", world.gcs_address, "--deadline-remaining-seconds", str(seconds)]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a drill"]
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": world.nodes.head.auth_token}
    process = await asyncio.create_subprocess_exec(*command, env=env, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def _run(draining: Process) -> None:
    """Raises RuntimeError if Ray refuses."""
    told, _ = await draining.communicate(b"\n")
    if draining.returncode:
        raise RuntimeError(f"ray drain-node: {told.decode(errors='replace')[-300:]}")


def _serves(node: Node) -> bool:
    """Whether a replica is left on it; by their processes, which outlive what Serve says of them."""
    with suppress(psutil.Error):
        return any("ServeReplica" in "".join(process.cmdline()[:1]) for process in node.session.processes())
    return True


async def _scale(world: World, expert: str, num_replicas: int) -> None:
    block = ("experts", expert, "autoscaling")
    await world.change({(*block, f"{end}_replicas"): num_replicas for end in ("min", "max")})
    app = expert_app(expert)
    await eventually(lambda: len(world.running(app)) == num_replicas, f"{app} is not scaled", TIMEOUT_S)


async def _remove(world: World, expert: str) -> None:
    remove_expert(world.path, expert)
    await world.apply()
