"""What one replica reserves, read from its Serve deployment. Replicas of equal shape share pods."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.serve.replica_resources import ACCELERATOR_PREFIX

_MAX_LABEL = 32


@dataclass(frozen=True)
class ReplicaShape:
    """Amounts of one replica. The bundles of a placement group are added up: they are in one pod."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    accelerator_type: str | None = None
    custom: tuple[tuple[str, float], ...] = ()
    node_labels: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def of(cls, deployment: Mapping[str, Any]) -> ReplicaShape:
        options = deployment["ray_actor_options"]
        bundles = deployment.get("placement_group_bundles")
        amounts = _sum(bundles) if bundles else _amounts(options)
        in_bundles = (name for name in amounts if name.startswith(ACCELERATOR_PREFIX))
        accelerator = next(in_bundles, "").removeprefix(ACCELERATOR_PREFIX) or None
        custom = {name: amount for name, amount in amounts.items() if not _is_standard(name)}
        selectors = [
            options.get("label_selector"),
            *deployment.get("placement_group_bundle_label_selector", ()),
        ]
        labels = {key: value for selector in selectors if selector for key, value in selector.items()}
        return cls(
            num_cpus=amounts.get("CPU", 0.0),
            num_gpus=amounts.get("GPU", 0.0),
            memory_bytes=int(amounts.get("memory", 0)),
            accelerator_type=options.get("accelerator_type") or accelerator,
            custom=tuple(sorted(custom.items())),
            node_labels=tuple(sorted(labels.items())),
        )

    @property
    def label(self) -> str:
        """A name that depends on the shape alone, as `gpu1-cpu0-l40s` or `cpu250m-3f9a1c`."""
        gpus = [f"gpu{_amount(self.num_gpus)}"] if self.num_gpus else []
        words = [*gpus, f"cpu{_amount(self.num_cpus)}"]
        if self.accelerator_type:
            words.append(re.sub(r"[^a-z0-9]+", "-", self.accelerator_type.lower()).strip("-"))
        name = "-".join(filter(None, words))
        plain = not (self.memory_bytes or self.custom or self.node_labels) and len(name) <= _MAX_LABEL
        if plain and (self.accelerator_type or "").lower() in ("", words[-1]):
            return name
        rest = (self.memory_bytes, self.accelerator_type, self.custom, self.node_labels)
        digest = hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:6]
        return f"{name[:_MAX_LABEL].rstrip('-')}-{digest}"

    @property
    def fits_any_pod(self) -> bool:
        """Whether any pod with free CPUs can hold it."""
        return self == ReplicaShape(num_cpus=self.num_cpus, memory_bytes=self.memory_bytes)


def _amounts(options: Mapping[str, Any]) -> dict[str, float]:
    standard = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {name: options.get(key) or 0.0 for name, key in standard.items()} | dict(
        options.get("resources", {})
    )


def _sum(bundles: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _is_standard(name: str) -> bool:
    return name in ("CPU", "GPU", "memory") or name.startswith(ACCELERATOR_PREFIX)


def _amount(amount: float) -> str:
    """2 → "2", 0.25 → "250m", as Kubernetes writes it."""
    return f"{amount:g}" if amount == int(amount) else f"{round(amount * 1000)}m"
