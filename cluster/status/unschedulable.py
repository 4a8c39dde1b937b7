"""Why a replica waits for a node, in one line that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from cluster.serve.replica_resources import ACCELERATOR_PREFIX
from cluster.status.nodes import Node
from cluster.status.resource_demand import Bundle, Demand

GIB = 2**30
RAY_RESOURCES = ("CPU", "GPU", "TPU", "memory", "object_store_memory")
EPSILON = 1e-6  # Ray counts in ten-thousandths
Amounts = Callable[[Node], Mapping[str, float]]


def why_waiting(demand: Demand, nodes: Sequence[Node], num_replicas: Mapping[str, int]) -> str:
    """What no node has, or has free; empty if a node has room, so that the replica is being started.

    `num_replicas`: how many replicas of the deployment each node has, by node id.
    """
    if not nodes:
        return "the cluster has no node"
    nowhere = [_why_nowhere(bundle, nodes) for bundle in demand.bundles]
    if any(nowhere):
        return next(filter(None, nowhere))
    limit = demand.max_per_node
    if limit is not None:
        open_nodes = [node for node in nodes if num_replicas.get(node.id, 0) < limit]
        if not open_nodes:
            return f"each of the {len(nodes)} nodes has its max_replicas_per_node of {limit}"
        nodes = open_nodes
    taken = [_why_taken(bundle, nodes) for bundle in demand.bundles]
    return next(filter(None, taken), "") or _why_not_together(demand.bundles, nodes)


def has_labels(node: Node, wanted: Mapping[str, str]) -> bool:
    """Ray's label selectors: a value, `!value`, `in(a,b)` or `!in(a,b)` for each label."""
    return all(_matches(node.labels.get(name), selector) for name, selector in wanted.items())


def _matches(label: str | None, selector: str) -> bool:
    negated, selector = selector.startswith("!"), selector.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", selector)
    values = [value.strip() for value in several[1].split(",")] if several else [selector]
    return (label in values) != negated


def _why_nowhere(bundle: Bundle, nodes: Sequence[Node]) -> str:
    """What no node has, even when nothing runs there."""
    candidates = [node for node in nodes if has_labels(node, bundle.labels)]
    if not candidates:
        missing = {
            name: value
            for name, value in bundle.labels.items()
            if not any(has_labels(node, {name: value}) for node in nodes)
        }
        return f"no node has {_labels(missing or bundle.labels)}"
    where = f" with {_labels(bundle.labels)}" if bundle.labels else ""
    for name, amount in bundle.resources.items():
        max_amount = max(node.total.get(name, 0.0) for node in candidates)
        if max_amount + EPSILON < amount:
            return _lacks(name, amount, max_amount, where)
    if not any(_fits(bundle, node.total) for node in candidates):
        return f"no node{where} offers {_amounts(bundle)} at once"
    return ""


def _why_taken(bundle: Bundle, nodes: Sequence[Node]) -> str:
    """What is in use on every node that has enough of it."""
    large_enough = [node for node in nodes if has_labels(node, bundle.labels) and _fits(bundle, node.total)]
    if any(_fits(bundle, node.free) for node in large_enough):
        return ""
    if not large_enough:  # a node that has enough has all the replicas that it may have
        return f"no node that may have one more replica offers {_amounts(bundle)}"
    for name, amount in bundle.resources.items():
        max_free = max(node.free.get(name, 0.0) for node in large_enough)
        if max_free + EPSILON < amount:
            return _taken(name, amount, max_free, large_enough)
    return f"no node has {_amounts(bundle)} free at once"


def _taken(name: str, amount: float, max_free: float, nodes: Sequence[Node]) -> str:
    where = "the node" if len(nodes) == 1 else f"the {len(nodes)} nodes"
    offered = _amount(name, sum(node.total[name] for node in nodes))
    waiting = f"waiting for {_quantity(name, amount)}"
    if max_free < EPSILON:
        return f"all of {offered} on {where} is in use; {waiting}"
    return f"of {offered} on {where}, at most {_quantity(name, max_free)} is free; {waiting}"


def _why_not_together(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> str:
    """Whether every bundle fits somewhere, but not all of them at once."""
    if len(bundles) == 1:
        return ""
    for amounts, verb in ((_total, "offer"), (_free, "have free")):
        num_placed = _num_placed(bundles, nodes, amounts)
        if num_placed < len(bundles):
            return f"the nodes {verb} room for {num_placed} of the {len(bundles)} bundles of a replica"
    return ""


def _num_placed(bundles: Sequence[Bundle], nodes: Sequence[Node], amounts: Amounts) -> int:
    """How many bundles fit if each takes the first node that has room (first fit)."""
    rooms = [(node, dict(amounts(node))) for node in nodes]
    num_placed = 0
    for bundle in bundles:
        for node, room in rooms:
            if has_labels(node, bundle.labels) and _fits(bundle, room):
                for name, amount in bundle.resources.items():
                    room[name] -= amount
                num_placed += 1
                break
    return num_placed


def _total(node: Node) -> Mapping[str, float]:
    return node.total


def _free(node: Node) -> Mapping[str, float]:
    return node.free


def _fits(bundle: Bundle, room: Mapping[str, float]) -> bool:
    return all(room.get(name, 0.0) + EPSILON >= amount for name, amount in bundle.resources.items())


def _lacks(name: str, amount: float, max_amount: float, where: str) -> str:
    if name.startswith(ACCELERATOR_PREFIX):
        return f"no node{where} has an accelerator of type {name.removeprefix(ACCELERATOR_PREFIX)}"
    if name in RAY_RESOURCES:
        return f"no node{where} offers {_amount(name, amount)} (most: {_quantity(name, max_amount)})"
    found = "no node has it" if max_amount < EPSILON else f"no node has more than {max_amount:g}"
    return f"needs custom resource {name} {amount:g}: {found}{where and f' among those{where}'}"


def _amounts(bundle: Bundle) -> str:
    return " and ".join(_amount(name, amount) for name, amount in bundle.resources.items())


def _amount(name: str, amount: float) -> str:
    return f"{name} {_quantity(name, amount)}"


def _quantity(name: str, amount: float) -> str:
    return f"{amount / GIB:.3g} GiB" if name.endswith("memory") else f"{amount:.4g}"


def _labels(labels: Mapping[str, str]) -> str:
    word = "label" if len(labels) == 1 else "labels"
    return f"the {word} {', '.join(f'{name}={value}' for name, value in labels.items())}"
