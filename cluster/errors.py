"""The errors between a cluster.yaml and a running cluster.

ClusterError
├── ConfigError             cluster.yaml, or a file that it names, is wrong; nothing was changed
├── ExpertRefused           a new expert would harm another, or is never called; nothing was written
├── HeadError               the Ray head of this machine
│   ├── PortTaken               another program uses a port that the cluster needs
│   ├── HeadBusy                another `etr up` is starting the same cluster
│   ├── HeadNotFound            no head of that name was started on this machine
│   ├── HeadFileBroken          the file about a head cannot be read
│   └── HeadStartFailed         Ray did not start
├── ServeError              the REST API of Ray Serve
│   ├── ServeUnreachable        it does not answer
│   └── ServeRefused            it answered with an error
├── ApplyError              the cluster did not become what was asked for
│   ├── ApplyBusy               another process is changing the same cluster
│   ├── ApplySuperseded         another machine changed it during this change
│   ├── DeployFailed            an application failed; the others are running
│   └── ApplyTimeout            the change is not complete in time; it may still complete
├── KubernetesError         a live RayService could not be read or changed
│   ├── KubectlMissing          kubectl is not installed
│   ├── RayServiceConflict      another client has changed it, or owns a part of it
│   └── NewClusterNeeded        the change would replace every pod; nothing was changed
├── RayFailed               hidden states could not be computed on a Ray cluster
└── AskError                a question was not answered
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

# The remedy in every message about an application that failed.
FAILED_APP_REMEDY = "correct cluster.yaml or what it names, and apply again"


class ClusterError(Exception):
    """The base class of the errors that this package raises on purpose. Its message is for the user."""


class ConfigError(ClusterError):
    """One line per problem, with the file, the field, what is wrong and the remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ExpertRefused(ClusterError):
    pass


class HeadError(ClusterError):
    pass


class PortTaken(HeadError):
    pass


class HeadBusy(HeadError):
    pass


class HeadNotFound(HeadError):
    pass


class HeadFileBroken(HeadError):
    pass


class HeadStartFailed(HeadError):
    pass


class ServeError(ClusterError):
    pass


class ServeUnreachable(ServeError):
    pass


class ServeRefused(ServeError):
    pass


class ApplyError(ClusterError):
    pass


class ApplyBusy(ApplyError):
    pass


class ApplySuperseded(ApplyError):
    pass


class DeployFailed(ApplyError):
    @classmethod
    def of(cls, failed: Mapping[str, str]) -> Self:
        """From messages by application; the error has one line for each, with the remedy."""
        return cls("\n".join(f"{app}: {why}; {FAILED_APP_REMEDY}" for app, why in sorted(failed.items())))


class ApplyTimeout(ApplyError):
    pass


class KubernetesError(ClusterError):
    pass


class KubectlMissing(KubernetesError):
    pass


class RayServiceConflict(KubernetesError):
    pass


class NewClusterNeeded(KubernetesError):
    pass


class RayFailed(ClusterError):
    pass


class AskError(ClusterError):
    pass
