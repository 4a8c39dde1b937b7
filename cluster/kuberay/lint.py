"""Checks a RayService beyond its schema: the operator's own rules, and Serve's rules for `serveConfigV2`.

The API server accepts an object that breaks these rules. The operator then only writes an event.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError
from cluster.serve.deploy_schema import check_deploy_config

MAX_NAME_LENGTH = 47
# etcd accepts requests of 1.5 MiB. Tokens are most of the text; status and metadata need the rest.
MAX_SERVE_TEXT_BYTES = 1_300_000
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", re.ASCII)
_DURATION = re.compile(r"(\d+(\.\d+)?(ms|s|m|h))+|\d+")
_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
_AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"
_MIN_AUTH_VERSION = (2, 52, 0)


def require_clean(manifest: Mapping[str, Any], source: Path) -> None:
    """Raises ConfigError with one line, which begins with `source`, per problem that `lint` finds."""
    problems = [f"{source}: {problem}" for problem in lint(manifest)]
    if problems:
        raise ConfigError(problems)


def lint(manifest: Mapping[str, Any]) -> list[str]:
    """The problems of a RayService that its schema accepts, each with the path, what is wrong and the remedy.

    The rules of KubeRay 1.7 (`ray-operator/controllers/ray/utils/validation.go`), of Ray's autoscaler, and
    our own for mistakes that otherwise appear only when pods start or end.
    """
    spec, cluster = manifest["spec"], manifest["spec"]["rayClusterConfig"]
    problems = [*_metadata(manifest["metadata"]), *_service(spec), *_serve_text(spec)]
    problems += [*_groups(cluster), *_fault_tolerance(cluster, manifest["metadata"]), *_auth(cluster)]
    if cluster.get("enableInTreeAutoscaling"):
        problems += _autoscaler(cluster)
    elif _variable(_head(cluster), _AUTOSCALER_V2) in ("1", "true"):
        problems.append(f"headGroupSpec: {_AUTOSCALER_V2} needs enableInTreeAutoscaling: true; set it")
    return problems


def _metadata(metadata: Mapping[str, Any]) -> Iterator[str]:
    name = metadata["name"]
    if len(name) > MAX_NAME_LENGTH:
        yield f"metadata.name: '{name}' has more than {MAX_NAME_LENGTH} characters; set kubernetes.service"
    if not _NAME.fullmatch(name):
        yield (
            f"metadata.name: '{name}' is not a valid name of a service (a letter, then a-z, 0-9 and -); set "
            "kubernetes.service"
        )
    timeout = metadata.get("annotations", {}).get("ray.io/initializing-timeout")
    if timeout is not None and (not _DURATION.fullmatch(timeout) or not re.search(r"[1-9]", timeout)):
        yield f"metadata.annotations: initializing-timeout '{timeout}' is not valid; use 60m or seconds"


def _service(spec: Mapping[str, Any]) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy", {})
    kind = strategy.get("type", "NewCluster")
    if kind not in _UPGRADES:
        yield f"upgradeStrategy.type: '{kind}' is not one of {', '.join(_UPGRADES)}; use one of them"
    if kind == "NewClusterWithIncrementalUpgrade":
        yield from _incremental(spec, strategy.get("clusterUpgradeOptions"))
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds: is negative; use 0 or more"
    if "name" in spec["rayClusterConfig"]["headGroupSpec"].get("headService", {}).get("metadata", {}):
        yield "headGroupSpec.headService.metadata.name: the operator chooses it; remove it"


def _incremental(spec: Mapping[str, Any], options: Mapping[str, Any] | None) -> Iterator[str]:
    where = "upgradeStrategy.clusterUpgradeOptions"
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "upgradeStrategy.type: an incremental upgrade needs enableInTreeAutoscaling: true; set it"
    if options is None:
        yield f"{where}: is required for an incremental upgrade; add it"
        return
    for key in ("maxSurgePercent", "stepSizePercent"):
        if not 0 <= options.get(key, 100) <= 100:
            yield f"{where}.{key}: must be between 0 and 100; correct it"
    if options.get("intervalSeconds", 0) <= 0:
        yield f"{where}.intervalSeconds: must be above 0; correct it"


def _serve_text(spec: Mapping[str, Any]) -> Iterator[str]:
    text = spec.get("serveConfigV2", "")
    if len(text.encode()) > MAX_SERVE_TEXT_BYTES:
        yield (
            f"serveConfigV2: {len(text.encode())} bytes are more than etcd accepts with the rest of the "
            f"object ({MAX_SERVE_TEXT_BYTES}); serve fewer experts in this RayService"
        )
        return
    try:
        deploy = yaml.safe_load(text)
        check_deploy_config(deploy, Path("serveConfigV2"))
    except yaml.YAMLError as error:
        yield f"serveConfigV2: is not YAML: {' '.join(str(error).split())}; render it again"
    except ConfigError as error:
        yield from error.problems
    except (KeyError, TypeError, AttributeError) as error:
        yield f"serveConfigV2: is not a deploy config: {error!r}; render it again"
    else:
        yield from _reachable(deploy)


def _reachable(deploy: Mapping[str, Any]) -> Iterator[str]:
    host = deploy["http_options"]["host"]
    if host not in ("0.0.0.0", "::"):
        yield f"serveConfigV2: http_options.host: '{host}' cannot be reached from other pods; use 0.0.0.0"
    if deploy["proxy_location"] != "EveryNode":
        yield "serveConfigV2: proxy_location: only EveryNode gives worker pods a proxy; use it"


def _groups(cluster: Mapping[str, Any]) -> Iterator[str]:
    groups = cluster.get("workerGroupSpecs", [])
    for name, times in Counter(group["groupName"] for group in groups).items():
        if times > 1:
            yield f"workerGroupSpecs: {times} groups are named '{name}'; rename all but one"
    yield from _group("headGroupSpec", cluster["headGroupSpec"])
    for group in groups:
        where = f"workerGroupSpecs.{group['groupName']}"
        if not _LABEL_NAME.fullmatch(group["groupName"]):
            yield f"{where}: is not a valid value of a label; rename it"
        low, high = group["minReplicas"], group["maxReplicas"]
        if low < 0 or low > high:
            yield f"{where}: minReplicas {low} and maxReplicas {high} are not a valid range; correct them"
        yield from _group(where, group)


def _group(where: str, group: Mapping[str, Any]) -> Iterator[str]:
    params = group.get("rayStartParams", {})
    duplicates = [name for name in _RESOURCE_PARAMS if name in params]
    if duplicates and group.get("resources"):
        yield f"{where}: resources are also in rayStartParams ({', '.join(duplicates)}); keep one of the two"
    if "labels" in params:
        yield f"{where}.rayStartParams.labels: is not supported; use the group's labels"
    for name, amount in group.get("resources", {}).items():
        if not str(amount).isdigit():
            yield f"{where}.resources.{name}: '{amount}' is not whole, and the autoscaler rounds up; round it"
    for key, value in group.get("labels", {}).items():
        if not _LABEL_NAME.fullmatch(key.rpartition("/")[2]) or (value and not _LABEL_NAME.fullmatch(value)):
            yield f"{where}.labels: '{key}: {value}' is not a valid label; correct it"
    spec = group["template"]["spec"]
    if not spec.get("containers"):
        yield f"{where}: has no container; add the one that runs Ray"
        return
    yield from _mounts(where, spec)


def _mounts(where: str, spec: Mapping[str, Any]) -> Iterator[str]:
    """The operator silently drops a mount without a volume."""
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for mount in spec["containers"][0].get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"{where}: {mount['mountPath']} mounts volume '{mount['name']}', which is missing; add it"


def _fault_tolerance(cluster: Mapping[str, Any], metadata: Mapping[str, Any]) -> Iterator[str]:
    head, options = _head(cluster), cluster.get("gcsFaultToleranceOptions")
    annotations = metadata.get("annotations", {})
    params = cluster["headGroupSpec"].get("rayStartParams", {})
    if "redis-username" in params or _variable(head, "REDIS_USERNAME") is not None:
        yield "headGroupSpec: the Redis user is set beside gcsFaultToleranceOptions; use its redisUsername"
    if options is None:
        if _variable(head, "RAY_REDIS_ADDRESS") is not None and "ray.io/ft-enabled" not in annotations:
            yield "headGroupSpec: RAY_REDIS_ADDRESS needs gcsFaultToleranceOptions; use its redisAddress"
        return
    for key in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if key in annotations:
            yield f"metadata.annotations.{key}: repeats gcsFaultToleranceOptions; remove it"
    if "redis-password" in params or _variable(head, "REDIS_PASSWORD") is not None:
        yield "headGroupSpec: a Redis password is set beside gcsFaultToleranceOptions; use its redisPassword"
    if _variable(head, "RAY_REDIS_ADDRESS") is not None:
        yield "headGroupSpec: RAY_REDIS_ADDRESS repeats gcsFaultToleranceOptions; remove it"


def _auth(cluster: Mapping[str, Any]) -> Iterator[str]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: anyone who can reach Ray's ports could run commands; use token"
        return
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", cluster.get("rayVersion", ""))
    if version is None or tuple(map(int, version.groups())) < _MIN_AUTH_VERSION:
        yield "rayVersion: authOptions.mode: token needs 2.52.0 or later; set the image's version"


def _autoscaler(cluster: Mapping[str, Any]) -> Iterator[str]:
    if cluster.get("autoscalerOptions", {}).get("version") is None:
        return
    if _variable(_head(cluster), _AUTOSCALER_V2) is not None:
        yield f"headGroupSpec: {_AUTOSCALER_V2} repeats autoscalerOptions.version; remove it"
    groups = {"headGroupSpec": cluster["headGroupSpec"]} | {
        f"workerGroupSpecs.{group['groupName']}": group for group in cluster.get("workerGroupSpecs", [])
    }
    for where, group in groups.items():
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{where}: restartPolicy must be Never with autoscaler v2; remove it"
        if group.get("suspend"):
            yield f"{where}: cannot be suspended while the autoscaler is on; remove suspend"


def _head(cluster: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = cluster["headGroupSpec"]["template"]["spec"].get("containers") or [{}]
    container: Mapping[str, Any] = containers[0]
    return container


def _variable(container: Mapping[str, Any], name: str) -> str | None:
    found = [variable for variable in container.get("env", []) if variable["name"] == name]
    return str(found[0].get("value", "")) if found else None
