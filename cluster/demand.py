"""What one replica needs to be placed, as a Serve application's details say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What Serve asks for besides, where a deployment names a kind of GPU.
ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Amounts by resource, all on one node that has all the labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """`max_per_node`: how many replicas of the deployment a node may have."""

    bundles: tuple[Bundle, ...]
    max_per_node: int | None = None


def demands(app: Mapping[str, Any]) -> list[Demand]:
    """Those of an application's deployments, as `ApplicationDetails` of Ray Serve has them.

    While Serve still builds an application it tells of no deployments, only of the config it was given. Their
    labels count already: Serve builds on a node that has them.
    """
    built = app["deployments"].values()
    if built:
        return [_demand(one["deployment_config"], one["required_resources"]) for one in built]
    config = app.get("deployed_app_config") or {}
    return [_demand(one, None) for one in config.get("deployments", ())]


def _demand(config: Mapping[str, Any], resources: Mapping[str, float] | None) -> Demand:
    options = config.get("ray_actor_options") or {}
    groups = config.get("placement_group_bundles")
    if not groups:
        needed = _required(options) if resources is None else resources
        bundles = [Bundle(_needed(needed), options.get("label_selector") or {})]
    else:
        selectors = config.get("placement_group_bundle_label_selector") or [{}]
        selectors = selectors if len(selectors) == len(groups) else selectors * len(groups)
        bundles = [Bundle(_needed(group), labels) for group, labels in zip(groups, selectors, strict=True)]
        if config.get("placement_group_strategy") == "STRICT_PACK":
            bundles = [_together(bundles)]
    return Demand(tuple(bundles), config.get("max_replicas_per_node"))


def _required(options: Mapping[str, Any]) -> dict[str, float]:
    amounts = {
        "CPU": options.get("num_cpus", 1),
        "GPU": options.get("num_gpus"),
        "memory": options.get("memory"),
    }
    kind = options.get("accelerator_type")
    sliver = {f"{ACCELERATOR}{kind}": 0.001} if kind else {}
    return {
        **{name: amount or 0 for name, amount in amounts.items()},
        **(options.get("resources") or {}),
        **sliver,
    }


def _needed(resources: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in resources.items() if amount}


def _together(bundles: list[Bundle]) -> Bundle:
    amounts: Counter[str] = Counter()
    labels: dict[str, str] = {}
    for bundle in bundles:
        amounts.update(bundle.resources)
        labels.update(bundle.labels)
    return Bundle(dict(amounts), labels)
