"""Change a live RayService. Serve is not changed directly: the operator would undo it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.errors import (
    ApplyTimeout,
    ConfigError,
    NewClusterNeeded,
    RayServiceConflict,
)
from cluster.kuberay.kubectl import RAYSERVICE, Kubectl
from cluster.kuberay.progress import RayServiceProgress
from cluster.kuberay.render import serve_text
from cluster.kuberay.spec_changes import SpecChanges, changes, keep_groups, widen_groups
from cluster.polling import until
from cluster.serve.app_status import OnEvent
from cluster.serve.plan import losing_adapters, replaced, set_table_version

MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class RayServicePlan:
    """What applying would send, and what that changes.

    Attributes:
        manifest: what is sent.
        changes: the differences from the live spec.
        generation: the generation of the live object that they were computed from.
        first: what must run before `manifest`, or None. It has the new route table while removed experts and
            their pods still run, so that no answer is handed over to them while they finish theirs.
    """

    manifest: dict[str, Any]
    changes: SpecChanges
    generation: int
    first: dict[str, Any] | None

    @property
    def changes_nothing(self) -> bool:
        return not self.changes.in_place and not self.changes.new_cluster


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
    """Apply `manifest` to a live RayService, and wait until all its applications run.

    Applying it again changes nothing, and it is safe to interrupt: the operator continues. `take_over` takes
    fields that were applied under the name of another field manager.

    Raises:
        ConfigError: the manifest is for another RayService.
        NewClusterNeeded: KubeRay would replace every pod, and `allow_new_cluster` is False.
        RayServiceConflict: it was changed after we read it, or another configuration was applied since.
        DeployFailed: applications failed; the rest runs.
        ApplyTimeout: the change is not complete within `timeout_s`.
        KubectlMissing, KubernetesError.
    """
    plan = plan_rayservice(namespace, name, manifest, take_over=take_over)
    if not allow_new_cluster:
        _require_in_place(f"{namespace}/{name}", plan.changes)
    kubectl = Kubectl(namespace)
    progress = RayServiceProgress(kubectl, name, on_event)
    for step in _apply_steps(plan, kubectl, take_over):
        progress.expect(step["spec"])
        if not until(progress.settled, timeout_s, poll_s):
            raise ApplyTimeout(f"{namespace}/{name}: not there after {timeout_s:g} s: {progress.pending()}")
    progress.require_no_failures()
    return plan.changes


def plan_rayservice(
    namespace: str, name: str, manifest: Mapping[str, Any], *, take_over: bool = False
) -> RayServicePlan:
    """Compare `manifest` (of `build_rayservice`) with the live object by a dry run. Changes nothing.

    The route table gets the live version or the next, and worker groups keep their order (`keep_groups`).

    Raises:
        ConfigError: the manifest is for another RayService.
        KubectlMissing, RayServiceConflict, KubernetesError.
    """
    _require_same(namespace, name, manifest)
    kubectl = Kubectl(namespace)
    live = kubectl.get(RAYSERVICE, name)
    wanted = keep_groups(manifest, live)
    # The API server refuses our change if the object has another version by then.
    wanted["metadata"] = {**wanted["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
    wanted["spec"]["serveConfigV2"] = _with_table_version(wanted, live)
    planned = kubectl.apply(wanted, dry_run=True, take_over=take_over)
    found = changes(live["spec"], planned["spec"])
    # A new cluster has never run the removed applications.
    first = None if found.new_cluster else _first(wanted, live)
    return RayServicePlan(wanted, found, live["metadata"]["generation"], first)


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


def _with_table_version(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> str:
    deploy = _deploy_config(wanted)
    set_table_version(deploy, _apps(_deploy_config(live)))
    return serve_text(deploy)


def _first(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any] | None:
    deploy = _deploy_config(wanted)
    kept, live_apps = _apps(deploy), _apps(_deploy_config(live))
    removed = [app for name, app in live_apps.items() if name not in kept]
    removed += losing_adapters(deploy["applications"], live_apps)
    first = widen_groups(wanted, live)
    if not removed and first == wanted:
        return None
    first["spec"]["serveConfigV2"] = serve_text(
        {**deploy, "applications": replaced(deploy["applications"], removed)}
    )
    return first


def _deploy_config(service: Mapping[str, Any]) -> dict[str, Any]:
    return yaml.safe_load(service["spec"].get("serveConfigV2") or "{}") or {}


def _apps(deploy: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {app["name"]: app for app in deploy.get("applications", ())}


def _apply_steps(plan: RayServicePlan, kubectl: Kubectl, take_over: bool) -> Iterator[dict[str, Any]]:
    """Apply `first` and then the manifest, and yield each: the next is applied when the caller continues."""
    metadata, generation = plan.manifest["metadata"], plan.generation
    for step in filter(None, (plan.first, plan.manifest)):
        if not plan.changes_nothing:
            sent = {**step, "metadata": metadata}
            metadata, generation = _apply(kubectl, sent, generation, take_over)
        yield step


def _apply(
    kubectl: Kubectl, manifest: Mapping[str, Any], generation: int, take_over: bool
) -> tuple[dict[str, Any], int]:
    """Apply, and return the metadata for the next step and the new generation.

    The operator's writes to `status` change the resourceVersion too. They do not concern our plan, so we try
    again with the new one while the generation, which counts changes of the spec, is the same.
    """
    metadata: dict[str, Any] = manifest["metadata"]
    for _ in range(MAX_ATTEMPTS):
        try:
            done = kubectl.apply({**manifest, "metadata": metadata}, take_over=take_over)["metadata"]
            return {**metadata, "resourceVersion": done["resourceVersion"]}, done["generation"]
        except RayServiceConflict:
            latest = kubectl.get(RAYSERVICE, metadata["name"])["metadata"]
            if latest["resourceVersion"] == metadata["resourceVersion"] or latest["generation"] != generation:
                raise
            metadata = {**metadata, "resourceVersion": latest["resourceVersion"]}
    raise RayServiceConflict(
        f"its status changed during each of {MAX_ATTEMPTS} attempts; apply again when it is stable"
    )
