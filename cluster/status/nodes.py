"""What the nodes of a Ray cluster have, and what of it is free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.serve.client import ServeClient
from cluster.status.dashboard_state import ActorState, NodeState, PlacementGroupState, list_state


@dataclass(frozen=True, slots=True)
class Node:
    """`total` and `free` are amounts by resource; memory is in bytes."""

    id: str
    ip: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def cluster_nodes(client: ServeClient) -> list[Node]:
    """The nodes that are alive, sorted by id.

    Only actors and placement groups count as used: tasks end soon.

    Raises:
        ServeUnreachable, ServeRefused.
    """
    actors = list_state(client, "actors", ActorState, state="ALIVE")
    groups = list_state(client, "placement_groups", PlacementGroupState, state="CREATED")
    nodes = list_state(client, "nodes", NodeState, state="ALIVE")
    used = _used(actors, groups)
    return [_node(node, used.get(node.node_id, {})) for node in sorted(nodes, key=lambda node: node.node_id)]


def _used(
    actors: Iterable[ActorState], groups: Iterable[PlacementGroupState]
) -> dict[str | None, dict[str, float]]:
    """Amounts by node and resource. An actor in a placement group adds nothing: its resources have the
    group's own names."""
    taken = [(actor.node_id, actor.required_resources) for actor in actors]
    taken += [(bundle.node_id, bundle.unit_resources) for group in groups for bundle in group.bundles or ()]
    used: dict[str | None, dict[str, float]] = {}
    for node_id, resources in taken:
        on_node = used.setdefault(node_id, {})
        for name, amount in (resources or {}).items():
            on_node[name] = on_node.get(name, 0.0) + amount
    return used


def _node(node: NodeState, used: Mapping[str, float]) -> Node:
    free = {name: max(0.0, amount - used.get(name, 0.0)) for name, amount in node.resources_total.items()}
    return Node(node.node_id, node.node_ip, node.resources_total, free, node.labels or {})
