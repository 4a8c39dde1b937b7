"""Replicas that stop under load: a node is drained, an expert is scaled down, an expert is removed."""

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

from benchmarks.chaos.clients import asking
from benchmarks.chaos.replies import Known, Reply, ask, broken_promises, client, endings, failure_examples
from benchmarks.chaos.world import DEADLINES, LAYERS, World, eventually, polled
from benchmarks.hot_change.answers import Question
from cluster.config.config_editor import remove_expert
from cluster.polling import until
from cluster.serve.app_names import ROUTER_APP, expert_app
from cluster.serve.app_status import status
from tests.support.raylets import Node

LONG_TOKENS = 150
VERY_LONG_TOKENS = 400  # takes longer than a short drain
NUM_CLIENTS = 6
NUM_EACH = 3  # how often each very long question is asked at once, so that the answers take longer
# The default of a pod. It is long enough for Serve to start new replicas before it stops the old ones.
DRAIN_S = int(DEADLINES["total_s"] + DEADLINES["wake_s"]) + 30
SHORT_DRAIN_S = 2
ALL_STREAM_S = 1.5  # after which every question is being answered
TIMEOUT_S = 180.0
DRAIN_SCRIPT = "from ray.scripts.scripts import main; print(flush=True); input(); main()"
Change = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Step:
    """One change under load. `num_under_way`: answers that were streaming when the change began."""

    endings: dict[str, int]
    num_under_way: int
    took_s: float
    longest_pause_s: float
    examples: list[str]

    def broken_promises(self, name: str) -> list[str]:
        if sum(self.endings.values()) and not self.num_under_way:
            return [f"{name}: no answer was under way, so nothing was tested"]
        return broken_promises(name, self.endings)


@dataclass(frozen=True)
class DrainReport:
    """`stopped_s`: how long the replicas ran on the drained node. `num_cut_off`: the least number of answers
    whose replica was killed with the node that had too little time."""

    drained: Step
    stopped_s: float
    drained_too_soon: Step
    num_cut_off: int
    scaled_down: Step
    removed: Step

    def broken(self) -> list[str]:
        steps = {name: value for name, value in vars(self).items() if isinstance(value, Step)}
        problems = [problem for name, step in steps.items() for problem in step.broken_promises(name)]
        if self.stopped_s >= DRAIN_S:
            problems.append(f"drained: replicas still ran after {DRAIN_S} s")
        if not self.num_cut_off:
            problems.append("drained_too_soon: no answer lost its replica")
        return problems


@dataclass(frozen=True)
class _Observed:
    replies: Sequence[Reply]
    began_s: float
    took_s: float

    def step(self, known: Known) -> Step:
        return Step(
            endings=endings(self.replies, known),
            num_under_way=sum(r.answer.began_s < self.began_s < r.answer.ended_s for r in self.replies),
            took_s=self.took_s,
            longest_pause_s=max((reply.longest_pause_s for reply in self.replies), default=0.0),
            examples=failure_examples(self.replies, known),
        )


@dataclass
class _DrainedNode:
    """A node to drain and then kill. `num_answers`: answers that its replicas were writing when the drain
    began. At `gone_s` no replica runs on it any more. Times are of time.monotonic()."""

    name: str
    node: Node
    seconds: int
    command_process: Process
    num_answers: int = 0
    drain_began_s: float = inf
    gone_s: float = inf

    def num_cut_off(self, replies: Sequence[Reply]) -> int:
        """A lower bound: every answer that ended before `gone_s` may have been one of this node's."""
        return max(0, self.num_answers - sum(reply.answer.ended_s < self.gone_s for reply in replies))


async def drain(world: World) -> DrainReport:
    """Needs at least two nodes. Afterwards the cluster is as before, but two nodes were replaced."""
    roman, capitals = (world.of(name, VERY_LONG_TOKENS)[: NUM_CLIENTS // 2] for name in ("roman", "capitals"))
    long_roman = world.of("roman", LONG_TOKENS)
    long = [*long_roman, *world.of("capitals", LONG_TOKENS), *world.of(None)]
    await world.record_known_answers([*long, *roman, *capitals], NUM_CLIENTS)
    for _ in range(2):  # before there is load, because under load a node starts too slowly for Ray
        await world.add_node()
    drained_node = await _choose_node(world, DRAIN_S)
    drained = await _while_clients_ask(world, long, lambda: _drain_and_kill(world, drained_node))
    short_of_time = await _choose_node(world, SHORT_DRAIN_S)
    drained_too_soon = await _while_all_stream(
        world, [*roman, *capitals] * NUM_EACH, lambda: _drain_and_kill(world, short_of_time)
    )
    scaled_down = await _while_clients_ask(world, long_roman, lambda: _scale(world, "roman", 1))
    await _scale(world, "roman", 2)
    before = world.path.read_text(encoding="utf-8")
    removed = await _while_all_stream(world, capitals * NUM_EACH, lambda: _remove(world, "capitals"))
    await world.restore(before)
    return DrainReport(
        drained=drained.step(world.known),
        stopped_s=drained_node.gone_s - drained_node.drain_began_s,
        drained_too_soon=drained_too_soon.step(world.known),
        num_cut_off=short_of_time.num_cut_off(drained_too_soon.replies),
        scaled_down=scaled_down.step(world.known),
        removed=removed.step(world.known),
    )


async def _while_clients_ask(world: World, questions: Sequence[Question], change: Change) -> _Observed:
    """Clients ask question after question until the change is done."""
    async with client(world.url) as http, asking(http, questions, NUM_CLIENTS) as replies:
        await asyncio.sleep(ALL_STREAM_S)
        began_s = time.monotonic()
        await change()
        took_s = time.monotonic() - began_s
    return _Observed(replies, began_s, took_s)


async def _while_all_stream(world: World, questions: Sequence[Question], change: Change) -> _Observed:
    """Every question is asked once. The change begins when all are being answered."""
    async with client(world.url) as http:
        asked = [asyncio.create_task(ask(http, question)) for question in questions]
        await polled(lambda: _all_streaming(http, asked), "not every answer began", TIMEOUT_S)
        began_s = time.monotonic()
        try:
            await change()
            took_s = time.monotonic() - began_s
        finally:
            replies = await asyncio.gather(*asked)
    return _Observed(replies, began_s, took_s)


async def _all_streaming(http: httpx.AsyncClient, asked: Sequence[Task[Reply]]) -> bool:
    num_answers = sum(load["num_running"] for load in await _loads(http))
    return num_answers >= len(asked) or any(task.done() for task in asked)


async def _choose_node(world: World, seconds: int) -> _DrainedNode:
    """The node with the most replicas of experts and no router, because a router holds the connections of
    clients. Raises RuntimeError if every node with an expert has a router."""
    replicas = world.running()
    router_nodes = {replica.node_id for replica in replicas if replica.app == ROUTER_APP}
    num_experts = Counter(replica.node_id for replica in replicas if replica.app in map(expert_app, LAYERS))
    candidates = num_experts.keys() - router_nodes
    nodes = [(name, node) for name, node in world.nodes.nodes.items() if node.id in candidates]
    if not nodes:
        raise RuntimeError("every node with an expert has a router too")
    name, node = max(nodes, key=lambda named: num_experts[named[1].id])
    return _DrainedNode(name, node, seconds, await _start_drain_command(world, node, seconds))


async def _drain_and_kill(world: World, drained_node: _DrainedNode) -> None:
    """Like a pod's preStop hook: drain the node, then kill it with everything that still runs on it."""
    drained_node.num_answers = await _num_answers_on(world, drained_node.node)
    await _run_drain_command(drained_node.command_process)
    drained_node.drain_began_s = time.monotonic()
    await asyncio.to_thread(until, lambda: not _has_replicas(drained_node.node), drained_node.seconds)
    drained_node.gone_s = time.monotonic()
    await asyncio.to_thread(world.nodes.kill, drained_node.name)
    await world.settled()


async def _num_answers_on(world: World, node: Node) -> int:
    apps = await asyncio.to_thread(status, world.client)
    on_node = {replica.id for app in apps for replica in app.replicas if replica.node_id == node.id}
    async with client(world.url) as http:
        return sum(load["num_running"] for load in await _loads(http) if load["replica"] in on_node)


async def _loads(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The load reports of the experts' replicas."""
    models = (await http.get("/stats")).raise_for_status().json()["models"]
    return [load for expert in LAYERS if (model := models.get(expert)) for load in model["replicas"]]


async def _start_drain_command(world: World, node: Node, seconds: int) -> Process:
    """`ray drain-node`, as k8s/bin/drain calls it. It waits for a line on stdin, because its imports take as
    long as an answer."""
    command = [sys.executable, "-P", "-c", DRAIN_SCRIPT, "drain-node", "--node-id", node.id]
    command += ["--address", world.gcs_address, "--deadline-remaining-seconds", str(seconds)]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a drill"]
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": world.nodes.head.auth_token}
    process = await asyncio.create_subprocess_exec(*command, env=env, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def _run_drain_command(command_process: Process) -> None:
    """Raises RuntimeError if Ray refuses to drain the node."""
    output, _ = await command_process.communicate(b"\n")
    if command_process.returncode:
        raise RuntimeError(f"ray drain-node: {output.decode(errors='replace')[-300:]}")


def _has_replicas(node: Node) -> bool:
    """Whether a replica's process is left on the node. Serve forgets a replica before its process ends."""
    with suppress(psutil.Error):
        return any("ServeReplica" in "".join(process.cmdline()[:1]) for process in node.session.processes())
    return True


async def _scale(world: World, expert: str, num_replicas: int) -> None:
    block = ("experts", expert, "autoscaling")
    await world.change({(*block, f"{end}_replicas"): num_replicas for end in ("min", "max")})
    app = expert_app(expert)
    await eventually(lambda: len(world.running(app)) == num_replicas, f"{app} was not scaled", TIMEOUT_S)


async def _remove(world: World, expert: str) -> None:
    remove_expert(world.path, expert)
    await world.apply()
