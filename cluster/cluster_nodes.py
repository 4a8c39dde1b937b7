"""What the nodes of a Ray cluster offer and what of it is free, by Ray's dashboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.serve_client import ServeClient

MAX_LISTED = 10_000  # the dashboard's own limit


@dataclass(frozen=True, slots=True)
class Node:
    """`total` and `free` are amounts by resource; memory is in bytes."""

    id: str
    ip: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def cluster_nodes(client: ServeClient) -> list[Node]:
    """The nodes that live, in the order of their ids.

    What runs outside of actors and placement groups counts as free: tasks are over soon.

    Raises:
        ServeUnreachable, ServeRefused.
    """
    used = _used(_listed(client, "actors", "ALIVE"), _listed(client, "placement_groups", "CREATED"))
    nodes = sorted(_listed(client, "nodes", "ALIVE"), key=lambda node: str(node["node_id"]))
    return [_node(node, used.get(node["node_id"], Counter())) for node in nodes]


def _listed(client: ServeClient, kind: str, state: str) -> list[dict[str, Any]]:
    only = f"filter_keys=state&filter_predicates=%3D&filter_values={state}"
    answer = client.get(f"/api/v0/{kind}?detail=1&limit={MAX_LISTED}&{only}")
    found: list[dict[str, Any]] = answer["data"]["result"]["result"]
    return found


def _used(actors: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """By node. An actor in a placement group counts nothing: its resources have the group's own names."""
    taken = [(actor["node_id"], actor["required_resources"]) for actor in actors]
    taken += [
        (bundle["node_id"], bundle["unit_resources"]) for group in groups for bundle in group["bundles"]
    ]
    used: dict[str, Counter[str]] = {}
    for node_id, resources in taken:
        used.setdefault(node_id, Counter()).update(resources or {})
    return used


def _node(node: dict[str, Any], used: Counter[str]) -> Node:
    total: dict[str, float] = node["resources_total"]
    free = {name: max(0.0, amount - used[name]) for name, amount in total.items()}
    return Node(node["node_id"], node["node_ip"], total, free, node.get("labels") or {})
