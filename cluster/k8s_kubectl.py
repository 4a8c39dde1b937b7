"""The Kubernetes API through `kubectl`: it knows every way of logging in, and so do its users."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import KubectlMissing, KubernetesError, RayServiceConflict

FIELD_MANAGER = "etr"
TIMEOUT_S = 120.0
RAYSERVICE = "rayservices.ray.io"
RAYCLUSTER = "rayclusters.ray.io"


@dataclass(frozen=True)
class Kubectl:
    """One namespace of the cluster that kubectl's current context names.

    Every method raises KubectlMissing, RayServiceConflict and KubernetesError.
    """

    namespace: str

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return self._run("get", kind, name)

    def apply(
        self, manifest: Mapping[str, Any], *, dry_run: bool = False, take_over: bool = False
    ) -> dict[str, Any]:
        """Server-side apply; the object as it is, or with `dry_run` would be, defaults included.

        A `resourceVersion` in the manifest makes the server refuse it once anybody has changed the object.
        `take_over` takes fields that others own.
        """
        options = ["--server-side", f"--field-manager={FIELD_MANAGER}", "--validate=strict"]
        options += ["--dry-run=server"] if dry_run else []
        options += ["--force-conflicts"] if take_over else []
        return self._run("apply", *options, "-f", "-", stdin=json.dumps(manifest))

    def patch(self, kind: str, name: str, operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A JSON patch (RFC 6902): all of it, or nothing where a `test` fails."""
        return self._run("patch", kind, name, "--type=json", f"--patch={json.dumps(operations)}")

    def _run(self, *arguments: str, stdin: str | None = None) -> dict[str, Any]:
        command = ["kubectl", f"--namespace={self.namespace}", *arguments, "--output=json"]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S)
        except FileNotFoundError as error:
            raise KubectlMissing(
                "kubectl: no such program; install it and log in to the cluster, or leave --rayservice out"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise KubernetesError(
                f"kubectl {arguments[0]}: no answer within {TIMEOUT_S:g} s; look at `kubectl cluster-info`"
            ) from error
        if done.returncode != 0:
            raise self._refusal(arguments, done.stderr)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError as error:
            raise KubernetesError(
                f"kubectl {arguments[0]}: its answer is no JSON: {error}; update it"
            ) from error
        return answer

    def _refusal(self, arguments: Sequence[str], stderr: str) -> KubernetesError:
        text = " ".join(stderr.split())
        if "(Conflict)" in stderr or "object has been modified" in stderr:
            return RayServiceConflict("somebody else has changed it meanwhile; look at what, and apply again")
        if "Apply failed with" in stderr:
            # Advice on kubectl's own options follows.
            owners = text.partition("Please review")[0].strip()
            return RayServiceConflict(
                f"others own fields of it: {owners}; apply with --take-over to take them"
            )
        if "(NotFound)" in stderr:
            return KubernetesError(
                f"namespace {self.namespace}: {text}; create it with `etr render k8s` and kubectl apply"
            )
        return KubernetesError(f"kubectl {arguments[0]}: {text or 'failed without a word'}; correct that")
