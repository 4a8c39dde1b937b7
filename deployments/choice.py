"""Which replica gets a call: Serve's power of two choices, among the replicas that are not suspect.

Serve pickles this module by value into every process that calls a model. Whatever such a process shares must
therefore live in another module: a global of this one would be a copy.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private.common import ReplicaID
from ray.serve._private.replica_result import ReplicaResult
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.replicas import probed_replica, replicas_of

CHOICE = "deployments.choice:AvoidingRouter"


class AvoidingRouter(PowerOfTwoChoicesRequestRouter):
    """Where every replica is suspect, none is avoided: nobody shall wait for ever. Each handle has one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._known = replicas_of(self.app_name)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._tell_running()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._tell_running()

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_unavailable(replica_id)
        self._known.suspect(replica_id.unique_id, "it cannot be reached")

    def apply_locality_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """Serve draws its two candidates from these. An empty set makes it look farther than this node."""
        candidates = super().apply_locality_routing(pending_request)
        suspects = self._known.suspects_for(_adapter(pending_request))
        if all(replica.unique_id in suspects for replica in self.curr_replicas):
            return candidates
        return {replica for replica in candidates if replica.unique_id not in suspects}

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        self._known.accepted(_request_id(pending_request))

    # Private, and yet: no public hook tells where a call was sent that is not accepted, and a replica that
    # hangs accepts none. A probe does not queue, because Serve may give the head of its queue any replica.
    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        request_id = _request_id(pending_request)
        wanted = probed_replica(request_id)
        if wanted is not None:
            replica = self._find(wanted, is_retry)
        else:
            self._known.place(request_id, None)
            replica = await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        self._known.place(request_id, replica.replica_id.unique_id)
        return replica

    def _find(self, wanted: str, is_retry: bool) -> RunningReplica:
        """Serve asks again, at once, for what a replica refused or could not be reached with."""
        for replica in self.curr_replicas.values():
            if replica.replica_id.unique_id == wanted and not is_retry:
                return replica
        raise DeploymentUnavailableError(self._deployment_id)

    def _tell_running(self) -> None:
        self._known.now_running(replica.unique_id for replica in self.curr_replicas)


def _adapter(pending_request: PendingRequest | None) -> str | None:
    call = pending_request.args[0] if pending_request and pending_request.args else None
    return getattr(call, "adapter", None)


def _request_id(pending_request: PendingRequest) -> str:
    """Our own, not Serve's; empty for whatever is no call to a model's `generate`."""
    call = pending_request.args[0] if pending_request.args else None
    return str(getattr(call, "request_id", ""))
