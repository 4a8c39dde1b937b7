"""What this process knows of each model's replicas: which run, which has which call, which are to be avoided.

Free of Ray. Serve's chooser (deployments.choice) and the model (deployments.remote) tell it what they see.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary, ref

from deployments.adapter_replicas import AdapterReplicas

logger = logging.getLogger(__name__)

MAX_ENDED = 1024  # whoever ended a call for its silence asks a moment later where it was
_PROBE = "probe"


@dataclass(slots=True)
class Placement:
    """Where a call is. A replica that hangs is sent calls and never accepts one."""

    replica: str | None = None
    is_accepted: bool = False


class ReplicaSet:
    """The replicas of one application.

    A suspect stalled or failed, and is avoided until it produces anything. Where all are suspect, or none
    runs, what comes up later must answer first: only then is the set proven, and its model ready again.
    """

    is_broken = False  # of an adapter alone

    def __init__(self, app: str) -> None:
        self.running: frozenset[str] = frozenset()
        self.suspects: frozenset[str] = frozenset()
        self.is_proven = False
        self._app = app
        self._open: dict[str, Placement] = {}
        self._ended: OrderedDict[str, Placement] = OrderedDict()
        self._taken: set[str] = set()
        # Replaced whole, for Serve may choose replicas in a thread of its own.
        self._adapters: dict[str, ref[AdapterReplicas]] = {}

    def for_calls_of(self, adapter: str | None) -> ReplicaSet | AdapterReplicas:
        """The set as it is for calls of this adapter, the same as long as somebody holds it; None: itself."""
        if adapter is None:
            return self
        found = self._known(adapter)
        if found is None:
            found = AdapterReplicas(self, adapter)
            held = {name: one for name, one in self._adapters.items() if one() is not None}
            self._adapters = {**held, adapter: ref(found)}
        return found

    def suspects_for(self, adapter: str | None) -> frozenset[str]:
        """Whom calls of this adapter avoid."""
        known = None if adapter is None else self._known(adapter)
        return self.suspects if known is None else known.suspects

    @property
    def healthy(self) -> frozenset[str]:
        """Those that run and are not suspect."""
        return self.running - self.suspects

    def now_running(self, replicas: Iterable[str]) -> None:
        """Serve told which replicas take calls; what left is forgotten."""
        self._update(frozenset(replicas), self.suspects)

    def suspect(self, replica: str | None, why: str) -> None:
        """Avoid the replica from now on; None is a call that no replica was chosen for."""
        if replica is None or replica not in self.healthy:
            return
        self._update(self.running, self.suspects | {replica})
        counts = len(self.healthy), len(self.running)
        told = "%s: replica %s is avoided until it answers: %s; %d of %d are left"
        logger.warning(told, self._app, replica, why, *counts)

    def answered(self, replica: str | None) -> None:
        """The replica produced something."""
        if replica not in self.running:  # one that is leaving may finish its calls
            return
        if replica in self.suspects:
            logger.info("%s: replica %s answers again", self._app, replica)
        self.suspects -= {replica}
        self.is_proven = True

    def stalled(self, request_id: str) -> None:
        """The call produced nothing in time; whoever has it is suspect."""
        self.suspect(self.placement(request_id).replica, "it produced nothing in time")

    def began(self, request_id: str) -> None:
        """A call begins; one that goes on with an earlier answer has the same id."""
        self._open[request_id] = Placement()

    def place(self, request_id: str, replica: str | None) -> None:
        """The call is on its way to the replica; None while it waits for one."""
        if request_id in self._open:
            self._open[request_id] = Placement(replica)
        else:
            self._remember(request_id, Placement(replica))

    def accepted(self, request_id: str) -> None:
        self.placement(request_id).is_accepted = True
        if request_id in self._open:  # it may have ended while the replica's word was under way
            self._taken.add(request_id)

    def ended(self, request_id: str) -> None:
        self._taken.discard(request_id)
        if request_id in self._open:
            self._remember(request_id, self._open.pop(request_id))

    @property
    def num_taken(self) -> int:
        """How many open calls a replica has accepted."""
        return len(self._taken)

    def placement(self, request_id: str) -> Placement:
        """Where the latest call with this id is or was; nowhere if it is not known (any more)."""
        return self._open.get(request_id) or self._ended.get(request_id) or Placement()

    def _remember(self, request_id: str, placement: Placement) -> None:
        self._ended[request_id] = placement
        self._ended.move_to_end(request_id)
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def _update(self, running: frozenset[str], suspects: frozenset[str]) -> None:
        self.running, self.suspects = running, suspects & running
        self.is_proven = self.is_proven and bool(self.healthy)
        for adapter in self._adapters:
            if known := self._known(adapter):
                known.look()

    def _known(self, adapter: str) -> AdapterReplicas | None:
        found = self._adapters.get(adapter)
        return None if found is None else found()


def replicas_of(app: str) -> ReplicaSet:
    """The one set of this process; as long as somebody holds it, all who ask get the same."""
    found = _SETS.get(app)
    if found is None:
        found = _SETS[app] = ReplicaSet(app)
    return found


def probe_id(replica: str | None = None) -> str:
    """The request id of a question that goes to this replica, suspect or not; None is whichever is chosen.

    No answer's id has a space.
    """
    return _PROBE if replica is None else f"{_PROBE} {replica}"


def is_probe(request_id: str) -> bool:
    return request_id.partition(" ")[0] == _PROBE


def probed_replica(request_id: str) -> str | None:
    """The replica that a question must go to, if it must."""
    kind, _, replica = request_id.partition(" ")
    return replica if kind == _PROBE and replica else None


_SETS: WeakValueDictionary[str, ReplicaSet] = WeakValueDictionary()
