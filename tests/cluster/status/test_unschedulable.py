"""Why a replica waits for a place: what it needs beside what the nodes offer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.schema import ApplicationDetails

from cluster.serve.serve_details import AppDetails, ServeDetails
from cluster.status.nodes import Node, cluster_nodes
from cluster.status.resource_demand import Bundle, Demand, demands
from cluster.status.unschedulable import why_waiting
from tests.fakes.dashboard import HEAD, FakeDashboard, application, dashboard, deployment

GIB = 2**30
NOBODY: dict[str, int] = {}


def node(
    name: str, total: Mapping[str, float], *, used: Mapping[str, float] | None = None, **labels: str
) -> Node:
    free = {resource: amount - (used or {}).get(resource, 0) for resource, amount in total.items()}
    return Node(name, "10.0.0.1", total, free, labels)


CPU_NODE = node("a", {"CPU": 4.0, "memory": 8.0 * GIB}, zone="eu")
GPU_NODE = node("b", {"CPU": 2.0, "GPU": 2.0, "accelerator_type:A100": 1.0}, zone="us", kind="gpu")


def needs(labels: Mapping[str, str] | None = None, /, **resources: float) -> Demand:
    return Demand((Bundle(resources, labels or {}),))


@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        (needs(GPU=4), "no node offers GPU 4 (most: 2)"),
        (needs(memory=16 * GIB), "no node offers memory 16 GiB (most: 8 GiB)"),
        (needs(CPU=4, GPU=1), "no node offers CPU 4 and GPU 1 at once"),
        (needs(model_math=1), "needs custom resource model_math 1: no node has it"),
        (needs(**{"accelerator_type:H100": 0.001}), "no node has an accelerator of type H100"),
        (needs({"zone": "asia"}, CPU=1), "no node has the label zone=asia"),
        (needs({"zone": "eu", "kind": "gpu"}, CPU=1), "no node has the labels zone=eu, kind=gpu"),
        (needs({"zone": "eu"}, GPU=1), "no node with the label zone=eu offers GPU 1 (most: 0)"),
    ],
)
def test_what_no_node_offers(demand: Demand, reason: str):
    assert why_waiting(demand, [CPU_NODE, GPU_NODE], NOBODY) == reason


@pytest.mark.parametrize(
    "demand",
    [
        needs(CPU=4),
        needs(CPU=2, GPU=2, **{"accelerator_type:A100": 0.001}),
        needs({"zone": "in(us, asia)"}, GPU=1),
        needs({"zone": "!us"}, CPU=4),
        needs({"zone": "!in(us,asia)", "kind": "!gpu"}, CPU=4),
        needs(),
    ],
)
def test_there_is_no_reason_if_a_node_has_room(demand: Demand):
    assert why_waiting(demand, [CPU_NODE, GPU_NODE], NOBODY) == ""


@pytest.mark.parametrize(
    ("used", "demand", "reason"),
    [
        ([4, 4], needs(CPU=1.5), "all of CPU 8 on the 2 nodes is in use; waiting for 1.5"),
        ([4, 3.5], needs(CPU=1), "of CPU 8 on the 2 nodes, at most 0.5 is free; waiting for 1"),
        ([3.9999, 4], needs(CPU=0.0001), ""),
        ([2, 4], needs(CPU=2), ""),
    ],
)
def test_what_is_in_use(used: list[float], demand: Demand, reason: str):
    nodes = [node(str(i), {"CPU": 4.0}, used={"CPU": amount}) for i, amount in enumerate(used)]
    assert why_waiting(demand, nodes, NOBODY) == reason


def test_all_resources_must_be_free_on_one_node():
    total = {"CPU": 4.0, "GPU": 1.0}
    nodes = [node("a", total, used={"CPU": 4.0}), node("b", total, used={"GPU": 1.0})]
    assert why_waiting(needs(CPU=1, GPU=1), nodes, NOBODY) == "no node has CPU 1 and GPU 1 free at once"


def test_a_cluster_may_have_no_node():
    assert why_waiting(needs(CPU=1), [], NOBODY) == "the cluster has no node"


def test_a_single_node_is_called_the_node():
    full = node("a", {"CPU": 4.0, "GPU": 1.0}, used={"GPU": 1.0})
    assert (
        why_waiting(needs(GPU=0.5), [full], NOBODY) == "all of GPU 1 on the node is in use; waiting for 0.5"
    )


def test_bundles_of_one_replica_are_placed_together():
    gpu = Bundle({"GPU": 1.0})
    assert why_waiting(Demand((gpu, gpu)), [GPU_NODE], NOBODY) == ""
    three = Demand((gpu, gpu, gpu))
    assert (
        why_waiting(three, [GPU_NODE], NOBODY) == "the nodes offer room for 2 of the 3 bundles of a replica"
    )
    half = node("c", GPU_NODE.total, used={"GPU": 1.0})
    assert why_waiting(three, [GPU_NODE, half], NOBODY) == ""
    assert (
        why_waiting(three, [half, half], NOBODY)
        == "the nodes have free room for 2 of the 3 bundles of a replica"
    )


def test_max_replicas_per_node_is_kept():
    one_each = Demand((Bundle({"CPU": 1.0}),), max_per_node=1)
    full = why_waiting(one_each, [CPU_NODE, GPU_NODE], {"a": 1, "b": 1})
    assert full == "each of the 2 nodes has its max_replicas_per_node of 1"
    assert why_waiting(one_each, [CPU_NODE, GPU_NODE], {"a": 1}) == ""
    big = Demand((Bundle({"CPU": 3.0}),), max_per_node=1)
    assert why_waiting(big, [CPU_NODE, GPU_NODE], {"a": 1}) == (
        "no node that may have one more replica offers CPU 3"
    )


@given(
    amounts=st.dictionaries(st.sampled_from(["CPU", "GPU", "x"]), st.integers(1, 8), min_size=1),
    offers=st.lists(
        st.dictionaries(st.sampled_from(["CPU", "GPU", "x"]), st.tuples(st.integers(0, 8), st.integers(0, 8)))
    ),
)
def test_there_is_a_reason_if_and_only_if_no_node_has_room(
    amounts: dict[str, int], offers: list[dict[str, tuple[int, int]]]
):
    nodes = [
        Node(
            str(i),
            "",
            {k: float(max(v)) for k, v in offer.items()},
            {k: float(min(v)) for k, v in offer.items()},
        )
        for i, offer in enumerate(offers)
    ]
    fits = any(all(one.free.get(name, 0) >= amount for name, amount in amounts.items()) for one in nodes)
    assert bool(why_waiting(Demand((Bundle(amounts),)), nodes, NOBODY)) is not fits


def received(app: ApplicationDetails) -> AppDetails:
    """As our client parses it."""
    return ServeDetails.model_validate(FakeDashboard([app]).details()).applications[app.name]


def test_a_deployment_says_what_its_replicas_need():
    app = application(
        "chem",
        deployment(
            needs={"CPU": 1.0, "GPU": 0.0, "model_math": 1, "accelerator_type:A100": 0.001},
            ray_actor_options={"num_cpus": 1.0, "label_selector": {"zone": "eu"}},
            max_replicas_per_node=2,
        ),
    )
    resources = {"CPU": 1.0, "model_math": 1, "accelerator_type:A100": 0.001}
    assert demands(received(app)) == [Demand((Bundle(resources, {"zone": "eu"}),), max_per_node=2)]


@pytest.mark.parametrize(
    ("strategy", "bundles"),
    [
        ("STRICT_PACK", (Bundle({"CPU": 1.0, "GPU": 2.0}, {"zone": "eu"}),)),
        ("PACK", (Bundle({"CPU": 1.0, "GPU": 1.0}, {"zone": "eu"}), Bundle({"GPU": 1.0}, {"zone": "eu"}))),
    ],
)
def test_the_bundles_of_a_placement_group_count(strategy: str, bundles: tuple[Bundle, ...]):
    app = application(
        "chem",
        deployment(
            ray_actor_options={"num_cpus": 1.0},
            placement_group_bundles=[{"CPU": 1.0, "GPU": 1.0}, {"GPU": 1.0}],
            placement_group_strategy=strategy,
            placement_group_bundle_label_selector=[{"zone": "eu"}, {"zone": "eu"}],
        ),
    )
    assert demands(received(app)) == [Demand(bundles)]


def test_the_demand_of_an_application_that_is_not_built_yet_is_in_its_config():
    options = {
        "num_cpus": 2,
        "num_gpus": 1,
        "memory": GIB,
        "accelerator_type": "A100",
        "resources": {"x": 1},
        "label_selector": {"zone": "eu"},
    }
    app = application("chem", status="DEPLOYING", config={"ray_actor_options": options})
    resources = {"CPU": 2.0, "GPU": 1.0, "memory": GIB, "x": 1, "accelerator_type:A100": 0.001}
    assert demands(received(app)) == [Demand((Bundle(resources, {"zone": "eu"}),))]


def test_resources_of_actors_and_placement_groups_are_not_free():
    fake = FakeDashboard(
        nodes=[
            HEAD | {"resources_total": {"CPU": 4.0, "GPU": 4.0}, "labels": {"zone": "eu"}},
            HEAD | {"node_id": "gone", "state": "DEAD"},
            HEAD | {"node_id": "a", "node_ip": "10.0.0.2"},
        ],
        actors=[
            {"state": "ALIVE", "node_id": "head", "required_resources": {"CPU": 1.5}},
            {"state": "ALIVE", "node_id": "head", "required_resources": {}, "placement_group_id": None},
            {
                "state": "ALIVE",
                "node_id": "head",
                "required_resources": {"CPU_group_0_f00": 1.0},
                "placement_group_id": "f00",
            },
            {"state": "DEAD", "node_id": "head", "required_resources": {"CPU": 1.0}},
            {"state": "PENDING_CREATION", "node_id": None, "required_resources": {"CPU": 1.0}},
        ],
        placement_groups=[
            {
                "state": "CREATED",
                "bundles": [
                    {"node_id": "head", "unit_resources": {"CPU": 1.0, "GPU": 1.0}},
                    {"node_id": "head", "unit_resources": {"GPU": 1.0}},
                ],
            },
            {"state": "PENDING", "bundles": [{"node_id": "", "unit_resources": {"GPU": 4.0}}]},
        ],
    )
    with dashboard(fake) as client:
        found = cluster_nodes(client)
    assert [one.id for one in found] == ["a", "head"]
    assert found[0] == Node("a", "10.0.0.2", {"CPU": 4.0}, {"CPU": 4.0})
    assert found[1].free == {"CPU": 1.5, "GPU": 2.0}
    assert found[1].labels == {"zone": "eu"}
