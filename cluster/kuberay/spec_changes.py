"""Whether a change of a RayService is made in place, or by a new cluster beside the old one.

KubeRay's rules, which compare `rayClusterConfig` without the numbers of pods:

- equal: the cluster stays as it is, with its numbers of pods;
- equal apart from worker groups at the end: the cluster gets these groups;
- otherwise: KubeRay starts a new cluster.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.differences import differences

_IGNORED_OF_CLUSTER = ("upgradeStrategy",)
_IGNORED_OF_GROUP = ("replicas", "minReplicas", "maxReplicas", "scaleStrategy")
_IGNORED_OF_POD = ("tolerations", "schedulingGates")
_POD_NUMBERS = ("minReplicas", "maxReplicas")


@dataclass(frozen=True, slots=True)
class SpecChanges:
    """One line per difference. KubeRay replaces every pod because of those in `new_cluster`."""

    in_place: tuple[str, ...]
    new_cluster: tuple[str, ...]


def keep_groups(manifest: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its worker groups in the live order, new ones last, and unused ones without pods.

    So an expert may be added anywhere in cluster.yaml, and the last expert of its shape removed, in place.
    """
    merged = copy.deepcopy(dict(manifest))
    wanted = {group["groupName"]: group for group in _groups(merged["spec"])}
    present = {group["groupName"]: group for group in _groups(live["spec"])}
    kept = [wanted.get(name) or _without_pods(group) for name, group in present.items()]
    merged["spec"]["rayClusterConfig"]["workerGroupSpecs"] = [
        *kept,
        *(group for name, group in wanted.items() if name not in present),
    ]
    return merged


def changes(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> SpecChanges:
    """Compare two specs as the API server stores them, with defaults filled in."""
    old, new = live["rayClusterConfig"], wanted["rayClusterConfig"]
    groups, num_kept = _groups(wanted), len(_groups(live))
    compared = {**_compared(new), "workerGroupSpecs": [_compared_group(group) for group in groups[:num_kept]]}
    new_cluster = map(str, differences(_compared(old), compared))
    in_place = [
        *map(str, differences(_outside(live), _outside(wanted))),
        *(f"worker group {group['groupName']}: added" for group in groups[num_kept:]),
        *(line for pair in zip(_groups(live), groups, strict=False) for line in _number_changes(*pair)),
    ]
    return SpecChanges(tuple(in_place), tuple(new_cluster))


def widen_groups(manifest: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with room for the pods that run now as well, until removed applications have finished."""
    widened = copy.deepcopy(dict(manifest))
    present = {group["groupName"]: group for group in _groups(live["spec"])}
    for group in _groups(widened["spec"]):
        before = present.get(group["groupName"], group)
        group.update({key: max(group[key], before[key]) for key in _POD_NUMBERS})
    return widened


def group_patch(cluster: Mapping[str, Any], spec: Mapping[str, Any], *, lower: bool) -> list[dict[str, Any]]:
    """JSON patch operations that give a live RayCluster the numbers of pods of its RayService.

    Without `lower`, only numbers that grow.
    """
    wanted = {group["groupName"]: group for group in _groups(spec)}
    operations: list[dict[str, Any]] = []
    for index, group in enumerate(cluster["spec"].get("workerGroupSpecs", [])):
        goal, where = wanted.get(group["groupName"], group), f"/spec/workerGroupSpecs/{index}"
        differing = [
            key for key in _POD_NUMBERS if goal[key] > group[key] or (lower and goal[key] < group[key])
        ]
        if differing:
            # The path has an index: fail if another group has that index by now.
            operations.append({"op": "test", "path": f"{where}/groupName", "value": group["groupName"]})
        operations += [{"op": "replace", "path": f"{where}/{key}", "value": goal[key]} for key in differing]
    return operations


def _groups(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(spec["rayClusterConfig"].get("workerGroupSpecs", []))


def _without_pods(group: Mapping[str, Any]) -> dict[str, Any]:
    """Removing the group would start a new cluster; a group that may have no pods costs nothing."""
    return {**copy.deepcopy(dict(group)), "replicas": 0, "minReplicas": 0, "maxReplicas": 0}


def _outside(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "rayClusterConfig"}


def _compared(cluster: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in cluster.items() if key not in _IGNORED_OF_CLUSTER}
    groups = [_compared_group(group) for group in kept.get("workerGroupSpecs", [])]
    return {**kept, "workerGroupSpecs": groups}


def _compared_group(group: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in group.items() if key not in _IGNORED_OF_GROUP}
    pod = {key: value for key, value in kept["template"]["spec"].items() if key not in _IGNORED_OF_POD}
    return {**kept, "template": {**kept["template"], "spec": pod}}


def _number_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in _POD_NUMBERS:
        if old.get(key) != new.get(key):
            yield f"worker group {new['groupName']}: {key}: {old.get(key)} → {new.get(key)}"
