"""Which replica gets a call: one that most likely has read its beginning, where replicas keep such things;
else Serve's power of two choices. Never one that is suspect, while another is not.

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

from deployments.affinity import KEEPS_PREFIXES, conversation, not_too_busy, ranked
from deployments.replicas import is_probe, probed_replica, replicas_of
from experts.engine.base import Call

CHOICE = "deployments.choice:AvoidingRouter"


class AvoidingRouter(PowerOfTwoChoicesRequestRouter):
    """Where every replica is suspect, none is avoided: nobody shall wait for ever. Each handle has one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._known = replicas_of(self.app_name)
        self._keeping: dict[str, RunningReplica] = {}  # of those that keep prefixes

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
        call = _call(pending_request) if pending_request else None
        suspects = self._known.suspects_for(call.adapter if call else None)
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
            mine = None if is_retry or is_probe(request_id) else await self._mine(pending_request)
            replica = mine or await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        self._known.place(request_id, replica.replica_id.unique_id)
        return replica

    def _find(self, wanted: str, is_retry: bool) -> RunningReplica:
        """Serve asks again, at once, for what a replica refused or could not be reached with."""
        for replica in self.curr_replicas.values():
            if replica.replica_id.unique_id == wanted and not is_retry:
                return replica
        raise DeploymentUnavailableError(self._deployment_id)

    async def _mine(self, pending_request: PendingRequest) -> RunningReplica | None:
        """Where the call goes; None leaves the choice to Serve.

        Like a probe, such a call does not queue; so it must not pass those that do.
        """
        call = _call(pending_request)
        if call is None or self.num_pending_requests:
            return None
        return self._only_one() or await self._home(call)

    def _only_one(self) -> RunningReplica | None:
        """Of which nothing was heard for a while: Serve would first ask it how busy it is, and a call to an
        expert that is rarely called would always wait for that. If it is full it refuses."""
        if len(self.curr_replicas) != 1:
            return None
        (only,) = self.curr_replicas.values()
        return only if self.replica_queue_len_cache.get(only.replica_id) is None else None

    async def _home(self, call: Call) -> RunningReplica | None:
        """Where the call's conversation is at home, if that is not too busy."""
        queue_len = self.replica_queue_len_cache.get
        suspects = self._known.suspects_for(call.adapter)
        keeping = [name for name in self._keeping if name not in suspects]
        if len(keeping) < 2:
            return None
        order = ranked(conversation(call), keeping)
        first = self._keeping[order[0]]
        if queue_len(first.replica_id) is None:  # it was sent nothing for a while
            await self._probe_queue_lens([first], 0)
        lengths = {name: queue_len(one.replica_id) for name, one in self._keeping.items()}
        num_calls = {name: length for name, length in lengths.items() if length is not None}
        home = not_too_busy(order, num_calls, first.max_ongoing_requests)
        return None if home is None else self._keeping[home]

    def _tell_running(self) -> None:
        self._known.now_running(replica.unique_id for replica in self.curr_replicas)
        running = {one.replica_id.unique_id: one for one in self.curr_replicas.values()}
        self._keeping = {
            name: one for name, one in running.items() if one.replica_metadata.get(KEEPS_PREFIXES)
        }


def _request_id(pending_request: PendingRequest) -> str:
    """Our own, not Serve's; empty for whatever is no call to a model's `generate`."""
    call = _call(pending_request)
    return "" if call is None else call.request_id


def _call(pending_request: PendingRequest) -> Call | None:
    first = pending_request.args[0] if pending_request.args else None
    return first if isinstance(first, Call) else None
