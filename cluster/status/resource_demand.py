"""What one replica needs, read from the details of its Serve application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.serve.replica_resources import ACCELERATOR_PREFIX, ACCELERATOR_SLIVER
from cluster.serve.serve_details import AppDetails


@dataclass(frozen=True, slots=True)
class Bundle:
    """Amounts by resource, all on one node that has all the labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """`max_per_node`: how many replicas of the deployment one node may have."""

    bundles: tuple[Bundle, ...]
    max_per_node: int | None = None


def demands(app: AppDetails) -> list[Demand]:
    """One for each deployment of an application.

    While Serve builds the application, only the submitted config has them. Their labels count already,
    because Serve builds on a node that has them.
    """
    if app.deployments:
        return [
            _demand(deployment.deployment_config, deployment.required_resources or {})
            for deployment in app.deployments.values()
        ]
    config = app.deployed_app_config or {}
    return [
        _demand(deployment, _required(deployment.get("ray_actor_options") or {}))
        for deployment in config.get("deployments", ())
    ]


def _demand(config: Mapping[str, Any], resources: Mapping[str, float]) -> Demand:
    groups = config.get("placement_group_bundles")
    if not groups:
        labels = (config.get("ray_actor_options") or {}).get("label_selector")
        bundles = [Bundle(_needed(resources), labels or {})]
    else:
        selectors = config.get("placement_group_bundle_label_selector") or [{}]
        selectors = selectors if len(selectors) == len(groups) else selectors * len(groups)
        bundles = [Bundle(_needed(group), labels) for group, labels in zip(groups, selectors, strict=True)]
        if config.get("placement_group_strategy") == "STRICT_PACK":
            bundles = [_merged(bundles)]
    return Demand(tuple(bundles), config.get("max_replicas_per_node"))


def _required(options: Mapping[str, Any]) -> dict[str, float]:
    """What Serve will reserve for a replica with these `ray_actor_options`."""
    amounts = {
        "CPU": options.get("num_cpus", 1),
        "GPU": options.get("num_gpus"),
        "memory": options.get("memory"),
    }
    gpu = options.get("accelerator_type")
    return {
        **{name: amount or 0 for name, amount in amounts.items()},
        **(options.get("resources") or {}),
        **({f"{ACCELERATOR_PREFIX}{gpu}": ACCELERATOR_SLIVER} if gpu else {}),
    }


def _needed(resources: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in resources.items() if amount}


def _merged(bundles: list[Bundle]) -> Bundle:
    amounts: dict[str, float] = {}
    labels: dict[str, str] = {}
    for bundle in bundles:
        for name, amount in bundle.resources.items():
            amounts[name] = amounts.get(name, 0.0) + amount
        labels |= bundle.labels
    return Bundle(amounts, labels)
