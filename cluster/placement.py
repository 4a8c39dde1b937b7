"""What a replica reserves, in Serve's words."""

from __future__ import annotations

from typing import Any

from cluster.blocks import Resources

# Ray's own way of asking for a kind of GPU: a sliver of a resource that every node with that kind has.
ACCELERATOR_SLIVER = 0.001


def placement(resources: Resources) -> dict[str, Any]:
    """The fields of a Serve deployment that decide where its replicas run.

    With `tensor_parallel` above 1 a replica is a placement group on one node, for its ranks exchange every
    layer's activations: one bundle with a GPU for each rank, and all else in the first, where the replica is.
    """
    if resources.tensor_parallel > 1:
        return _placement_group(resources)
    options = {**_own(resources), "num_gpus": resources.num_gpus}
    if resources.accelerator_type is not None:
        options["accelerator_type"] = resources.accelerator_type
    if resources.labels:
        options["label_selector"] = dict(sorted(resources.labels.items()))
    return {"ray_actor_options": options}


def _placement_group(resources: Resources) -> dict[str, Any]:
    gpu = {"GPU": 1.0}
    if resources.accelerator_type is not None:
        gpu[f"accelerator_type:{resources.accelerator_type}"] = ACCELERATOR_SLIVER
    first = {"CPU": resources.num_cpus, **gpu, **resources.custom}
    if resources.memory_bytes is not None:
        first["memory"] = float(resources.memory_bytes)
    rest = [dict(gpu) for _ in range(resources.tensor_parallel - 1)]
    group = {
        # The replica itself takes no GPU: those are for the engine's ranks, which it starts in the group.
        "ray_actor_options": {**_own(resources), "num_gpus": 0.0},
        "placement_group_bundles": [{name: first[name] for name in sorted(first) if first[name]}, *rest],
        "placement_group_strategy": "STRICT_PACK",
    }
    if resources.labels:
        labels = dict(sorted(resources.labels.items()))
        group["placement_group_bundle_label_selector"] = [dict(labels) for _ in range(len(rest) + 1)]
    return group


def _own(resources: Resources) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": resources.num_cpus}
    if resources.memory_bytes is not None:
        options["memory"] = resources.memory_bytes
    if resources.custom:
        options["resources"] = dict(sorted(resources.custom.items()))
    return options
