"""How far KubeRay's operator is with a change of a RayService, from the status that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from cluster.errors import DeployFailed, KubectlMissing, KubernetesError, RayServiceConflict
from cluster.kuberay.kubectl import RAYCLUSTER, RAYSERVICE, Kubectl
from cluster.kuberay.spec_changes import group_patch
from cluster.serve.app_status import STOPPED, AppEvent, OnEvent
from cluster.serve.serve_details import FAILED, RUNNING


class RayServiceProgress:
    """Polls the RayService, and reports every change of an application's status once."""

    def __init__(self, kubectl: Kubectl, name: str, on_event: OnEvent) -> None:
        self._kubectl = kubectl
        self._name = name
        self._on_event = on_event
        self._spec: Mapping[str, Any] = {}
        self._wanted: list[str] = []
        self._seen: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, str] = {}
        self._waits_for = "the operator"

    def expect(self, spec: Mapping[str, Any]) -> None:
        """Measure progress by this spec from now on."""
        self._spec = spec
        self._wanted = [app["name"] for app in yaml.safe_load(spec["serveConfigV2"])["applications"]]

    def settled(self) -> bool:
        """Whether the operator has made the change, and every application runs or has failed.

        Raises:
            RayServiceConflict: another configuration was applied meanwhile.
            KubectlMissing.
        """
        try:
            return self._poll()
        except (RayServiceConflict, KubectlMissing):
            raise
        except KubernetesError as error:  # a busy API server; the wait as a whole has its limit
            self._waits_for = str(error)
            return False

    def _poll(self) -> bool:
        live = self._kubectl.get(RAYSERVICE, self._name)
        if live["spec"]["serveConfigV2"] != self._spec["serveConfigV2"]:
            raise RayServiceConflict("another configuration was applied meanwhile; check it, and apply again")
        status = live.get("status", {})
        if status.get("observedGeneration", 0) < live["metadata"]["generation"]:
            self._waits_for = "the operator to see the change; is KubeRay running?"
            return False
        pending = status.get("pendingServiceStatus", {}).get("rayClusterName")
        if not pending:
            self._copy_pod_numbers(status, lower=False)
        service = status.get("pendingServiceStatus" if pending else "activeServiceStatus", {})
        self._report(service.get("applicationStatuses", {}))
        self._waits_for = f"the new cluster {pending}" if pending else "applications"
        if pending or self._pending() or not self._seen.keys() <= set(self._wanted):
            return False
        self._copy_pod_numbers(status, lower=True)
        return True

    def pending(self) -> str:
        """What is missing, with the state of each application that does not run yet."""
        found = {app: self._seen.get(app, {}) for app in self._pending()}
        apps = [
            f"{app}: {status.get('status', 'unknown')} {status.get('message', '')}".strip()
            for app, status in found.items()
        ]
        removed = [f"{app}: is not gone" for app in sorted(self._seen.keys() - set(self._wanted))]
        return "; ".join([f"waiting for {self._waits_for}", *apps, *removed])

    def require_no_failures(self) -> None:
        """Raises DeployFailed."""
        if self._failed:
            raise DeployFailed.of(self._failed)

    def _copy_pod_numbers(self, status: Mapping[str, Any], *, lower: bool) -> None:
        """Copy the numbers of pods into the running RayCluster, where the autoscaler reads them.

        KubeRay does not copy them: it ignores them when it compares the RayService with its cluster.
        """
        name = status.get("activeServiceStatus", {}).get("rayClusterName")
        if not name:
            return
        operations = group_patch(self._kubectl.get(RAYCLUSTER, name), self._spec, lower=lower)
        if operations:
            self._kubectl.patch(RAYCLUSTER, name, operations)

    def _report(self, statuses: Mapping[str, dict[str, Any]]) -> None:
        for app, status in sorted(statuses.items()):
            before = self._seen.get(app, {})
            if (before.get("status"), before.get("message")) != (status.get("status"), status.get("message")):
                self._on_event(AppEvent(app, status.get("status", ""), status.get("message", "")))
        for app in sorted(self._seen.keys() - statuses):
            self._on_event(AppEvent(app, STOPPED))
        self._seen = dict(statuses)
        self._failed = {
            app: status.get("message", "")
            for app, status in statuses.items()
            if status.get("status") == FAILED and app in self._wanted
        }

    def _pending(self) -> list[str]:
        done = {app for app, status in self._seen.items() if status.get("status") in (RUNNING, FAILED)}
        return [app for app in self._wanted if app not in done]
