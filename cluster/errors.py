"""What can go wrong between a cluster.yaml and a running cluster.

ClusterError
├── ConfigError             cluster.yaml, or a file it names, is wrong; nothing was touched
├── ExpertRefused           a new expert would harm another, or is never called; nothing was written
├── HeadError               the Ray head of this machine
│   ├── PortTaken               another program listens where the cluster should
│   ├── HeadBusy                another `etr up` is starting the same cluster
│   ├── HeadNotFound            no head was started here under that name
│   ├── HeadFileBroken          what was kept of a head cannot be read
│   └── HeadStartFailed         Ray did not come up
├── ServeError              Serve's REST API
│   ├── ServeUnreachable        nothing answers, or it went away
│   └── ServeRefused            it answered no
├── ApplyError              the cluster did not become what was asked
│   ├── ApplyBusy               another process is changing the same cluster
│   ├── ApplySuperseded         another machine changed it while this one waited
│   ├── DeployFailed            an application failed; the others serve on
│   └── ApplyTimeout            not there in time; it may still get there
├── KubernetesError         a live RayService could not be read or changed
│   ├── KubectlMissing          there is no kubectl to ask with
│   ├── RayServiceConflict      somebody else has changed it, or owns a part of it
│   └── NewClusterNeeded        the change would replace every pod; nothing was touched
├── RayFailed               states could not be computed on a Ray cluster
└── AskError                a question was not answered
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

# What to do about an application that failed.
FIX = "correct cluster.yaml or what it names, and apply again"


class ClusterError(Exception):
    """Everything this package raises on purpose; the message is meant for the person at the terminal."""


class ConfigError(ClusterError):
    """One line per problem, each naming file, field, what is wrong and the remedy."""

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
        """One line for each application, by name, that says why and what to do."""
        return cls("\n".join(f"{app}: {why}; {FIX}" for app, why in sorted(failed.items())))


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
