"""The names under which clients address the models of a cluster."""

from __future__ import annotations

from collections.abc import Iterable


def model_ids(cluster: str, names: Iterable[str]) -> list[str]:
    """The generalist, which has the name of the cluster, and each model that can be addressed alone."""
    return [cluster, *(f"{cluster}/{name}" for name in names)]
