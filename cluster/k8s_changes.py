"""What a change of a RayService does: in place, or by a new cluster beside the old. KubeRay's own rules.

KubeRay compares `rayClusterConfig` without the numbers of pods. Equal: nothing happens to the cluster, and
the numbers stay where they were. Equal but for groups at the end: the cluster gets them. Else: a new cluster.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_IGNORED_OF_CLUSTER = ("upgradeStrategy",)
_IGNORED_OF_GROUP = ("replicas", "minReplicas", "maxReplicas", "scaleStrategy")
_IGNORED_OF_POD = ("tolerations", "schedulingGates")
_NUMBERS = ("minReplicas", "maxReplicas")
_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class SpecChanges:
    """One line per difference. `new_cluster`: those for which KubeRay replaces every pod."""

    in_place: tuple[str, ...]
    new_cluster: tuple[str, ...]


def keep_groups(manifest: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its worker groups in the live order, new ones last, and unused ones emptied.

    So an expert may be added anywhere in cluster.yaml, and the last one of its kind removed, in place.
    """
    merged = copy.deepcopy(dict(manifest))
    wanted = {group["groupName"]: group for group in _groups(merged["spec"])}
    present = {group["groupName"]: group for group in _groups(live["spec"])}
    kept = [wanted.get(name) or _emptied(group) for name, group in present.items()]
    merged["spec"]["rayClusterConfig"]["workerGroupSpecs"] = [
        *kept,
        *(group for name, group in wanted.items() if name not in present),
    ]
    return merged


def changes(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> SpecChanges:
    """Compare two specs as the server holds them, defaults included."""
    old, new = live["rayClusterConfig"], wanted["rayClusterConfig"]
    groups, num_kept = _groups(wanted), len(_groups(live))
    compared = {**_compared(new), "workerGroupSpecs": [_compared_group(one) for one in groups[:num_kept]]}
    new_cluster = _differences("", _compared(old), compared)
    in_place = [
        *_differences("", _outside(live), _outside(wanted)),
        *(f"worker group {group['groupName']}: added" for group in groups[num_kept:]),
        *(line for pair in zip(_groups(live), groups, strict=False) for line in _numbers(*pair)),
    ]
    return SpecChanges(tuple(in_place), tuple(new_cluster))


def widen_groups(manifest: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with room for whatever runs now besides, for as long as it takes to end."""
    widened = copy.deepcopy(dict(manifest))
    present = {group["groupName"]: group for group in _groups(live["spec"])}
    for group in _groups(widened["spec"]):
        before = present.get(group["groupName"], group)
        group.update({key: max(group[key], before[key]) for key in _NUMBERS})
    return widened


def group_patch(cluster: Mapping[str, Any], spec: Mapping[str, Any], *, lower: bool) -> list[dict[str, Any]]:
    """JSON patch operations that give a live RayCluster the numbers of pods that its RayService has; without
    `lower` only the higher ones."""
    wanted = {group["groupName"]: group for group in _groups(spec)}
    operations: list[dict[str, Any]] = []
    for index, group in enumerate(cluster["spec"].get("workerGroupSpecs", [])):
        goal, where = wanted.get(group["groupName"], group), f"/spec/workerGroupSpecs/{index}"
        differing = [key for key in _NUMBERS if goal[key] > group[key] or (lower and goal[key] < group[key])]
        if differing:
            # The list has no keys: the group must still be the one that stood there.
            operations.append({"op": "test", "path": f"{where}/groupName", "value": group["groupName"]})
        operations += [{"op": "replace", "path": f"{where}/{key}", "value": goal[key]} for key in differing]
    return operations


def _groups(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(spec["rayClusterConfig"].get("workerGroupSpecs", []))


def _emptied(group: Mapping[str, Any]) -> dict[str, Any]:
    """Removing it would start a new cluster; a group that may have no pod costs nothing."""
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


def _numbers(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in _NUMBERS:
        if old.get(key) != new.get(key):
            yield f"worker group {new['groupName']}: {key}: {old.get(key)} → {new.get(key)}"


def _differences(where: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({**old, **new}):
            yield from _differences(f"{where}.{key}" if where else key, old.get(key), new.get(key))
    elif _parallel(old, new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{where}.{_name_of(one, index)}", one, other)
    else:
        yield f"{where}: {_shown(old)} → {_shown(new)}"


def _parallel(old: Any, new: Any) -> bool:
    return (
        isinstance(old, Sequence)
        and not isinstance(old, str)
        and isinstance(new, list)
        and len(old) == len(new)
    )


def _name_of(item: Any, index: int) -> str:
    named = item if isinstance(item, Mapping) else {}
    return str(named.get("groupName") or named.get("name") or index)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{len(text)} characters"
