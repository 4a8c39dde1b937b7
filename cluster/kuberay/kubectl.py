"""The Kubernetes API through `kubectl`, which supports every way to log in."""

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
    """One namespace of the cluster in kubectl's current context.

    Every method raises KubectlMissing, RayServiceConflict and KubernetesError.
    """

    namespace: str

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return self._run("get", kind, name)

    def apply(
        self, manifest: Mapping[str, Any], *, dry_run: bool = False, take_over: bool = False
    ) -> dict[str, Any]:
        """Server-side apply. Returns the object as it is, or with `dry_run` as it would be, with defaults.

        With a `resourceVersion` in the manifest, the server refuses it if the object has another one.
        `take_over` takes fields that another field manager owns.
        """
        options = ["--server-side", f"--field-manager={FIELD_MANAGER}", "--validate=strict"]
        options += ["--dry-run=server"] if dry_run else []
        options += ["--force-conflicts"] if take_over else []
        return self._run("apply", *options, "-f", "-", stdin=json.dumps(manifest))

    def patch(self, kind: str, name: str, operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A JSON patch (RFC 6902): the server applies all operations, or none if a `test` fails."""
        return self._run("patch", kind, name, "--type=json", f"--patch={json.dumps(operations)}")

    def _run(self, *arguments: str, stdin: str | None = None) -> dict[str, Any]:
        command = ["kubectl", f"--namespace={self.namespace}", *arguments, "--output=json"]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S)
        except FileNotFoundError as error:
            raise KubectlMissing(
                "kubectl: no such program; install it and log in to the cluster, or omit --rayservice"
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
                f"kubectl {arguments[0]}: its output is not JSON: {error}; update kubectl"
            ) from error
        return answer

    def _refusal(self, arguments: Sequence[str], stderr: str) -> KubernetesError:
        text = " ".join(stderr.split())
        if "(Conflict)" in stderr or "object has been modified" in stderr:
            return RayServiceConflict(
                "the RayService was changed meanwhile; check the change, and apply again"
            )
        if "Apply failed with" in stderr:
            # What follows is advice on kubectl's own options.
            owners = text.partition("Please review")[0].strip()
            return RayServiceConflict(
                f"other field managers own fields of it: {owners}; apply with --take-over to take them"
            )
        if "(NotFound)" in stderr:
            return KubernetesError(
                f"namespace {self.namespace}: {text}; create it with `etr render k8s` and kubectl apply"
            )
        return KubernetesError(
            f"kubectl {arguments[0]}: {text or 'failed with no error output'}; correct that"
        )
