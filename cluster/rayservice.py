"""Change a live RayService, which is what its operator goes by: a PUT to Serve beside it would be undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.epoch import set_epoch
from cluster.errors import (
    ApplyTimeout,
    ConfigError,
    NewClusterNeeded,
    RayServiceConflict,
)
from cluster.events import OnEvent
from cluster.k8s import serve_text
from cluster.k8s_changes import SpecChanges, changes, keep_groups, widen_groups
from cluster.k8s_kubectl import RAYSERVICE, Kubectl
from cluster.plan import replaced, with_leaving_adapters
from cluster.rayservice_progress import RayServiceProgress
from cluster.session import until
from cluster.status import RUNNING

NUM_ATTEMPTS = 5


@dataclass(frozen=True)
class RayServicePlan:
    """What applying would change. `manifest` is what would be sent, `changes` what that does to the spec that
    the live object has in its `generation`. `first`: what has to run before, or None: nobody is handed to an
    expert that leaves while it finishes what it writes, and its pods stay until then."""

    manifest: dict[str, Any]
    changes: SpecChanges
    generation: int
    first: dict[str, Any] | None

    @property
    def changes_nothing(self) -> bool:
        return not self.changes.in_place and not self.changes.new_cluster


def plan_rayservice(
    namespace: str, name: str, manifest: Mapping[str, Any], *, take_over: bool = False
) -> RayServicePlan:
    """Compare `manifest` (of `build_rayservice`) with the live object; the server is asked, nothing changes.

    The route table's epoch follows the live one, worker groups keep their places (`keep_groups`).

    Raises:
        ConfigError: the manifest is another RayService's.
        KubectlMissing, RayServiceConflict, KubernetesError.
    """
    _require_same(namespace, name, manifest)
    kubectl = Kubectl(namespace)
    live = kubectl.get(RAYSERVICE, name)
    wanted = keep_groups(manifest, live)
    # From here on, whoever changes it before we do makes the server refuse ours.
    wanted["metadata"] = {**wanted["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
    wanted["spec"]["serveConfigV2"] = _numbered(wanted, live)
    planned = kubectl.apply(wanted, dry_run=True, take_over=take_over)
    found = changes(live["spec"], planned["spec"])
    # What a new cluster has never run needs not leave it.
    first = None if found.new_cluster else _first(wanted, live)
    return RayServicePlan(wanted, found, live["metadata"]["generation"], first)


def patch_rayservice(
    namespace: str,
    name: str,
    manifest: Mapping[str, Any],
    on_event: OnEvent = lambda event: None,
    *,
    allow_new_cluster: bool = False,
    take_over: bool = False,
    timeout_s: float = 3600.0,
    poll_s: float = 5.0,
) -> SpecChanges:
    """Make a live RayService what `manifest` says, and wait until all its applications run.

    Doing it again changes nothing, and interrupting it is safe: the operator goes on. `take_over` takes
    fields that were applied under another field manager's name.

    Raises:
        ConfigError: the manifest is another RayService's.
        NewClusterNeeded: KubeRay would replace every pod, and `allow_new_cluster` is not given.
        RayServiceConflict: somebody else changed it between our look and our change.
        DeployFailed: applications failed; all others run.
        ApplyTimeout: not there yet.
        KubectlMissing, KubernetesError.
    """
    plan = plan_rayservice(namespace, name, manifest, take_over=take_over)
    if not allow_new_cluster:
        _require_in_place(f"{namespace}/{name}", plan.changes)
    kubectl = Kubectl(namespace)
    progress = RayServiceProgress(kubectl, name, on_event)
    metadata, generation = plan.manifest["metadata"], plan.generation
    for step in filter(None, (plan.first, plan.manifest)):
        sent = {**step, "metadata": metadata}
        if not plan.changes_nothing:
            metadata, generation = _apply(kubectl, sent, generation, take_over)
        progress.expect(step["spec"])
        if not until(progress.settled, timeout_s, poll_s):
            raise ApplyTimeout(f"{namespace}/{name}: not there after {timeout_s:g} s: {progress.pending()}")
    progress.require_no_failures()
    return plan.changes


def _require_in_place(service: str, changes: SpecChanges) -> None:
    if changes.new_cluster:
        raise NewClusterNeeded(
            f"{service}: KubeRay would start a new cluster and replace every pod, because of: "
            f"{'; '.join(changes.new_cluster)}; apply with --allow-new-cluster, or undo that"
        )


def _require_same(namespace: str, name: str, manifest: Mapping[str, Any]) -> None:
    metadata = manifest["metadata"]
    if (metadata["namespace"], metadata["name"]) != (namespace, name):
        raise ConfigError(
            [
                f"kubernetes: the file is for RayService {metadata['namespace']}/{metadata['name']}, not "
                f"{namespace}/{name}; set kubernetes.namespace and service, or name that one"
            ]
        )


def _numbered(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> str:
    deploy, apps = _deploy(wanted), _deploy(live).get("applications", ())
    found = {app["name"]: {"status": RUNNING, "deployed_app_config": app} for app in apps}
    set_epoch(deploy, {"applications": found})
    return serve_text(deploy)


def _first(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any] | None:
    """The new route table with the applications and the pods of before."""
    deploy, running = _deploy(wanted), _deploy(live)
    names = {app["name"] for app in deploy["applications"]}
    now = {app["name"]: app for app in running.get("applications", ())}
    leaving = [app for name, app in now.items() if name not in names]
    leaving += with_leaving_adapters(deploy["applications"], now)
    first = widen_groups(wanted, live)
    if not leaving and first == wanted:
        return None
    with_all = {**deploy, "applications": replaced(deploy["applications"], leaving)}
    first["spec"]["serveConfigV2"] = serve_text(with_all)
    return first


def _deploy(service: Mapping[str, Any]) -> dict[str, Any]:
    return yaml.safe_load(service["spec"].get("serveConfigV2") or "{}") or {}


def _apply(
    kubectl: Kubectl, manifest: Mapping[str, Any], generation: int, take_over: bool
) -> tuple[dict[str, Any], int]:
    """The metadata for the next step, and its generation. The operator's notes in `status` count as changes
    of the object, but are none of what was planned on."""
    metadata: dict[str, Any] = manifest["metadata"]
    for _ in range(NUM_ATTEMPTS):
        try:
            done = kubectl.apply({**manifest, "metadata": metadata}, take_over=take_over)["metadata"]
            return {**metadata, "resourceVersion": done["resourceVersion"]}, done["generation"]
        except RayServiceConflict:
            now = kubectl.get(RAYSERVICE, metadata["name"])["metadata"]
            if now["resourceVersion"] == metadata["resourceVersion"] or now["generation"] != generation:
                raise
            metadata = {**metadata, "resourceVersion": now["resourceVersion"]}
    raise RayServiceConflict("it changes faster than it can be read; wait until it is calm, and apply again")
