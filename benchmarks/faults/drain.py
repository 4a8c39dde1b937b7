"""Replicas that are told to leave: a node is drained, an expert scaled down or removed, under load."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import psutil

from benchmarks.faults.clients import asking
from benchmarks.faults.replies import Ending, Reply, ask, client, endings, not_whole
from benchmarks.faults.world import World, eventually
from benchmarks.hot.answers import Question
from cluster.serve_config import ROUTER_APP, expert_app
from cluster.session import until
from cluster.yaml_edit import remove_expert
from tests.raylets import RAY, Node

LONG = 150  # tokens
VERY_LONG = 1200  # more than a short drain leaves time for
NUM_CLIENTS = 6
DRAIN_S = 120
SHORT_DRAIN_S = 2
TIMEOUT_S = 180.0


@dataclass(frozen=True)
class DrainReport:
    """What became of the answers that were under way during each change; `took_s` until it was done."""

    drained: dict[str, int]
    drained_in_s: float
    drained_too_soon: dict[str, int]
    scaled_down: dict[str, int]
    scaled_down_in_s: float
    removed: dict[str, int]
    removed_in_s: float
    longest_pause_s: float
    examples: list[str]

    def broken(self) -> list[str]:
        steps = {name: value for name, value in asdict(self).items() if isinstance(value, dict)}
        return [
            f"{name}: {bad}"
            for name, counted in steps.items()
            if (bad := {end: num for end, num in counted.items() if num and end != Ending.WHOLE})
        ]


@dataclass(frozen=True)
class _Step:
    counted: dict[str, int]
    took_s: float
    replies: Sequence[Reply]
    examples: Sequence[str]


async def drain(world: World) -> DrainReport:
    """Needs two nodes or more. The world is as before afterwards, but two nodes are others."""
    long = [*world.of("roman", LONG), *world.of("capitals", LONG), *world.of(None)]
    very_long = world.of("roman", VERY_LONG)[:NUM_CLIENTS]
    leaving = world.of("capitals", VERY_LONG)[:NUM_CLIENTS]
    await world.learn_known([*long, *very_long, *leaving], NUM_CLIENTS)
    for _ in range(2):  # before there is load, under which Ray gives a node too little time to start
        await world.add_node()
    drained = await _while_asked(world, long, lambda: _drain_node(world, DRAIN_S))
    short = await _while_written(world, very_long, lambda: _drain_node(world, SHORT_DRAIN_S))
    scaled = await _while_asked(world, world.of("roman", LONG), lambda: _scale(world, "roman", 1))
    await _scale(world, "roman", 2)
    before = world.path.read_text(encoding="utf-8")
    removed = await _while_written(world, leaving, lambda: _remove(world, "capitals"))
    await world.restore(before)
    steps = (drained, short, scaled, removed)
    return DrainReport(
        drained=drained.counted,
        drained_in_s=drained.took_s,
        drained_too_soon=short.counted,
        scaled_down=scaled.counted,
        scaled_down_in_s=scaled.took_s,
        removed=removed.counted,
        removed_in_s=removed.took_s,
        longest_pause_s=max(one.longest_pause_s for step in steps for one in step.replies),
        examples=[told for step in steps for told in step.examples],
    )


async def _while_asked(
    world: World, questions: Sequence[Question], change: Callable[[], Awaitable[None]]
) -> _Step:
    """Clients ask again and again until the change is done."""
    async with client(world.url) as http, asking(http, questions, NUM_CLIENTS) as replies:
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        await change()
        took_s = time.monotonic() - began_s
    return _step(world, replies, took_s)


async def _while_written(
    world: World, questions: Sequence[Question], change: Callable[[], Awaitable[None]]
) -> _Step:
    """Every question is asked once, and is being answered when the change begins."""
    async with client(world.url) as http:
        asked = [asyncio.create_task(ask(http, question)) for question in questions]
        await asyncio.sleep(1.5)
        began_s = time.monotonic()
        try:
            await change()
        finally:
            replies = await asyncio.gather(*asked)
    return _step(world, replies, time.monotonic() - began_s)


async def _drain_node(world: World, seconds: int) -> None:
    """As a pod's preStop: drained, then gone, whatever still runs on it. The router's node stays: its
    answers cannot go on elsewhere when the time is too short."""
    name, node = _node_without(world, ROUTER_APP)
    await ray_drain(world, node, seconds)
    await asyncio.to_thread(until, lambda: not _serves(node), float(seconds))
    await asyncio.to_thread(world.nodes.kill, name)
    await world.settled()


def _node_without(world: World, app: str) -> tuple[str, Node]:
    """A node with models, and without this application if there is one."""
    taken = {one.node_id for one in world.running(app)}
    used = {one.node_id for one in world.running()}
    nodes = [item for item in world.nodes.nodes.items() if item[1].id in used]
    return next((item for item in nodes if item[1].id not in taken), nodes[0])


async def ray_drain(world: World, node: Node, seconds: int) -> None:
    """`ray drain-node`, as k8s/bin/drain calls it. Raises RuntimeError if Ray refuses."""
    command = [*RAY, "drain-node", "--address", world.gcs_address, "--node-id", node.id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a drill"]
    command += ["--deadline-remaining-seconds", str(seconds)]
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": world.nodes.head.auth_token}
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await process.communicate()
    if process.returncode:
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


def _step(world: World, replies: Sequence[Reply], took_s: float) -> _Step:
    counted = endings(replies, world.known)
    return _Step(counted, took_s, replies, not_whole(replies, world.known))
