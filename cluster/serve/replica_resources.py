"""What a replica reserves, as the fields of a Serve deployment."""

from __future__ import annotations

from typing import Any

from cluster.config.replicated_model import ResourcesConfig

# Ray's way to ask for a GPU model: a tiny amount of a resource that only nodes with that GPU have.
ACCELERATOR_PREFIX = "accelerator_type:"
ACCELERATOR_SLIVER = 0.001


def resource_options(resources: ResourcesConfig) -> dict[str, Any]:
    """The fields of a Serve deployment that decide where its replicas run.

    A replica with several ranks is a placement group on one node, because its ranks exchange the activations
    of every layer, and pass decisions through the node's memory. Each rank has a bundle with one GPU; the
    first also holds the replica itself and everything else that it reserves.
    """
    if resources.num_ranks > 1:
        return _placement_group(resources)
    options = {**_own(resources), "num_gpus": resources.num_gpus}
    if resources.accelerator_type is not None:
        options["accelerator_type"] = resources.accelerator_type
    if resources.labels:
        options["label_selector"] = dict(sorted(resources.labels.items()))
    return {"ray_actor_options": options}


def _placement_group(resources: ResourcesConfig) -> dict[str, Any]:
    gpu = {"GPU": 1.0}
    if resources.accelerator_type is not None:
        gpu[f"{ACCELERATOR_PREFIX}{resources.accelerator_type}"] = ACCELERATOR_SLIVER
    first = {"CPU": resources.num_cpus, **gpu, **resources.custom}
    if resources.memory_bytes is not None:
        first["memory"] = float(resources.memory_bytes)
    rest = [dict(gpu) for _ in range(resources.num_ranks - 1)]
    group = {
        # The GPUs are for the engine's ranks, which the replica starts in its group.
        "ray_actor_options": {**_own(resources), "num_gpus": 0.0},
        "placement_group_bundles": [{name: first[name] for name in sorted(first) if first[name]}, *rest],
        "placement_group_strategy": "STRICT_PACK",
    }
    if resources.labels:
        labels = dict(sorted(resources.labels.items()))
        group["placement_group_bundle_label_selector"] = [dict(labels) for _ in range(len(rest) + 1)]
    return group


def _own(resources: ResourcesConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": resources.num_cpus}
    if resources.memory_bytes is not None:
        options["memory"] = resources.memory_bytes
    if resources.custom:
        options["resources"] = dict(sorted(resources.custom.items()))
    return options
