"""What becomes of a change of a RayService: the operator's notes, until every application runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from cluster.errors import DeployFailed, KubectlMissing, KubernetesError, RayServiceConflict
from cluster.events import STOPPED, AppEvent, OnEvent
from cluster.k8s_changes import group_patch
from cluster.k8s_kubectl import RAYCLUSTER, RAYSERVICE, Kubectl
from cluster.status import FAILED, RUNNING


class RayServiceProgress:
    """Looks at the operator's notes, and tells every change of an application's status once."""

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
        """Whether the operator has seen the change, and all applications run or have failed.

        Raises:
            RayServiceConflict: somebody else has applied another configuration meanwhile.
            KubectlMissing.
        """
        try:
            return self._look()
        except (RayServiceConflict, KubectlMissing):
            raise
        except KubernetesError as error:  # a busy API server; the wait as a whole has its limit
            self._waits_for = str(error)
            return False

    def _look(self) -> bool:
        live = self._kubectl.get(RAYSERVICE, self._name)
        if live["spec"]["serveConfigV2"] != self._spec["serveConfigV2"]:
            raise RayServiceConflict("somebody else has applied another configuration meanwhile; look at it")
        status = live.get("status", {})
        if status.get("observedGeneration", 0) < live["metadata"]["generation"]:
            self._waits_for = "the operator to see the change; is KubeRay running?"
            return False
        pending = status.get("pendingServiceStatus", {}).get("rayClusterName")
        if not pending:
            self._hand_on_numbers(status, lower=False)
        service = status.get("pendingServiceStatus" if pending else "activeServiceStatus", {})
        self._tell(service.get("applicationStatuses", {}))
        self._waits_for = f"the new cluster {pending}" if pending else "applications"
        if pending or self._late() or not self._seen.keys() <= set(self._wanted):
            return False
        self._hand_on_numbers(status, lower=True)
        return True

    def pending(self) -> str:
        """What is waited for, with each late application's state."""
        late = {app: self._seen.get(app, {}) for app in self._late()}
        apps = [
            f"{app}: {now.get('status', 'unknown')} {now.get('message', '')}".strip()
            for app, now in late.items()
        ]
        leaving = [f"{app}: is not gone" for app in sorted(self._seen.keys() - set(self._wanted))]
        return "; ".join([f"waiting for {self._waits_for}", *apps, *leaving])

    def require_no_failures(self) -> None:
        """Raises DeployFailed."""
        if self._failed:
            raise DeployFailed.of(self._failed)

    def _hand_on_numbers(self, status: Mapping[str, Any], *, lower: bool) -> None:
        """A running cluster keeps its numbers of pods whatever its RayService says: KubeRay ignores them when
        it compares the two. The autoscaler reads them in the cluster."""
        name = status.get("activeServiceStatus", {}).get("rayClusterName")
        if not name:
            return
        operations = group_patch(self._kubectl.get(RAYCLUSTER, name), self._spec, lower=lower)
        if operations:
            self._kubectl.patch(RAYCLUSTER, name, operations)

    def _tell(self, statuses: Mapping[str, dict[str, Any]]) -> None:
        for app, now in sorted(statuses.items()):
            before = self._seen.get(app, {})
            if (before.get("status"), before.get("message")) != (now.get("status"), now.get("message")):
                self._on_event(AppEvent(app, now.get("status", ""), now.get("message", "")))
        for app in sorted(self._seen.keys() - statuses):
            self._on_event(AppEvent(app, STOPPED))
        self._seen = dict(statuses)
        self._failed = {
            app: now.get("message", "")
            for app, now in statuses.items()
            if now.get("status") == FAILED and app in self._wanted
        }

    def _late(self) -> list[str]:
        done = {app for app, now in self._seen.items() if now.get("status") in (RUNNING, FAILED)}
        return [app for app in self._wanted if app not in done]
