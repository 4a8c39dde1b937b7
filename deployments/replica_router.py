"""Chooses the replica for a call: the one that most likely has the prompt's beginning in its cache, if the
replicas keep one; otherwise by Serve's power of two choices. Ejected replicas are avoided if others are left.

Serve pickles this module by value into every process that calls a model, so a global of this module would be
a copy. What such a process shares is in `deployments.replicas.replica_set`.
"""

from __future__ import annotations

from typing import Any

# Serve's private modules are imported here alone (`deployments.remote` and `deployments.load_reports` use one
# private attribute each). Made for Ray 2.60, to which pyproject.toml pins it. For another version check
# `update_replicas`, `on_replica_actor_*`, `apply_locality_routing`, `_choose_replica_for_request`,
# `_probe_queue_lens` and `replica_queue_len_cache`: all run in tests/deployments/test_replica_router.py.
from ray.serve._private.common import ReplicaID
from ray.serve._private.replica_result import ReplicaResult
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.replicas.affinity import (
    KEEPS_PREFIXES,
    VOCABULARY,
    conversation_digest,
    least_busy_in_order,
    rank_replicas,
)
from deployments.replicas.probe_ids import is_probe, probed_replica
from deployments.replicas.replica_set import replicas_of
from deployments.replicas.wire_format import Sent
from experts.engine.request import EngineRequest

REQUEST_ROUTER = "deployments.replica_router:HealthAwareRequestRouter"


class HealthAwareRequestRouter(PowerOfTwoChoicesRequestRouter):
    """Each handle has one. If every replica is ejected, none is avoided, so that no call waits forever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._replica_set = replicas_of(self.app_name)
        self._caching: dict[str, RunningReplica] = {}  # the replicas that keep prefixes in a cache

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._update_running()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._update_running()

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_unavailable(replica_id)
        self._replica_set.eject(replica_id.unique_id, "it cannot be reached")

    def apply_locality_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """Serve draws its two candidates from these. An empty set makes it look beyond this node."""
        candidates = super().apply_locality_routing(pending_request)
        request = _engine_request(pending_request) if pending_request else None
        ejected = self._replica_set.ejected_for(request.adapter if request else None)
        if all(replica.unique_id in ejected for replica in self.curr_replicas):
            return candidates
        return {replica for replica in candidates if replica.unique_id not in ejected}

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        self._replica_set.calls.accepted(_request_id(pending_request))

    # A private method, because no public hook reports where an unaccepted call was sent, and a replica that
    # hangs accepts none. A probe does not queue: Serve may give the head of its queue any replica.
    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        request_id = _request_id(pending_request)
        wanted = probed_replica(request_id)
        if wanted is not None:
            replica = self._find(wanted, is_retry)
        else:
            self._replica_set.calls.placed(request_id, None)
            preferred = None if is_retry or is_probe(request_id) else await self._preferred(pending_request)
            replica = preferred or await super()._choose_replica_for_request(
                pending_request, is_retry=is_retry
            )
        self._replica_set.calls.placed(request_id, replica.replica_id.unique_id)
        return replica

    def _find(self, wanted: str, is_retry: bool) -> RunningReplica:
        """The replica to probe. Serve retries at once what a replica refused or could not be sent; a probe is
        not retried."""
        for replica in self.curr_replicas.values():
            if replica.replica_id.unique_id == wanted and not is_retry:
                return replica
        raise DeploymentUnavailableError(self._deployment_id)

    async def _preferred(self, pending_request: PendingRequest) -> RunningReplica | None:
        """Where the call should go; None leaves the choice to Serve.

        A call with a preferred replica does not queue, so it must not overtake calls that do.
        """
        request = _engine_request(pending_request)
        if request is None or self.num_pending_requests:
            return None
        return self._single_idle_replica() or await self._affine_replica(request)

    def _single_idle_replica(self) -> RunningReplica | None:
        """The only replica, if its queue length is unknown because it was not called for a while. Serve would
        first ask it, which would delay every call to a rarely called expert. If it is full it refuses."""
        if len(self.curr_replicas) != 1:
            return None
        (only,) = self.curr_replicas.values()
        return only if self.replica_queue_len_cache.get(only.replica_id) is None else None

    async def _affine_replica(self, request: EngineRequest) -> RunningReplica | None:
        """The replica that most likely has the conversation in its cache, or the next if that is too busy."""
        queue_len = self.replica_queue_len_cache.get
        ejected = self._replica_set.ejected_for(request.adapter)
        caching = [name for name in self._caching if name not in ejected]
        if len(caching) < 2:
            return None
        ranked = rank_replicas(conversation_digest(request), caching)
        first = self._caching[ranked[0]]
        if queue_len(first.replica_id) is None:  # it was not called for a while
            await self._probe_queue_lens([first], 0)
        lengths = {name: queue_len(replica.replica_id) for name, replica in self._caching.items()}
        num_calls = {name: length for name, length in lengths.items() if length is not None}
        chosen = least_busy_in_order(ranked, num_calls, first.max_ongoing_requests)
        return None if chosen is None else self._caching[chosen]

    def _update_running(self) -> None:
        running = {replica.replica_id.unique_id: replica for replica in self.curr_replicas.values()}
        said = [replica.replica_metadata for replica in running.values()]
        self._replica_set.set_running(running, [each.get(VOCABULARY) for each in said])
        self._caching = {
            name: replica for name, replica in running.items() if replica.replica_metadata.get(KEEPS_PREFIXES)
        }


def _request_id(pending_request: PendingRequest) -> str:
    """Our own id, not Serve's; empty for anything but a call of a model's `generate`."""
    request = _engine_request(pending_request)
    return "" if request is None else request.request_id


def _engine_request(pending_request: PendingRequest) -> EngineRequest | None:
    first = pending_request.args[0] if pending_request.args else None
    return first.request if isinstance(first, Sent) else None
