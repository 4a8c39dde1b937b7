"""What this process knows of a model's replicas: which run and which are ejected.

One `ReplicaSet` per application and process is shared by three parts, which find it by `replicas_of(app)`:

- Serve's request router (`replica_router`, one for each handle) reports which replicas run and where each
  call went, and reads which replicas to avoid;
- `remote.RemoteModel` reports what came of each call;
- `model_route.ModelRoute` reads whether the model answers.

Serve creates the request router itself and pickles its class by value, so none of our objects can be passed
to it: the three share what they look up in this module, which is imported. The map is weak, so a set lives as
long as one of the three holds it. This module imports nothing of Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from weakref import WeakValueDictionary

from deployments.replicas.call_placements import CallPlacements
from deployments.replicas.death_count import DeathCount
from deployments.replicas.error_rate import ErrorRate
from deployments.replicas.probe_claims import ProbeClaims
from router.errors import (
    AdapterBroken,
    AdapterMissing,
    ModelDied,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    RouterError,
)
from router.model_port import Finish

logger = logging.getLogger(__name__)

DYING = "its replicas die whatever they are asked"


def replicas_of(app: str) -> ReplicaSet:
    """The application's set in this process; the same object as long as something holds it."""
    found = _SETS.get(app)
    if found is None:
        found = _SETS[app] = ReplicaSet(app)
    return found


class ReplicaSet:
    """The replicas of one application.

    A replica that stalls or fails is ejected (avoided) until it produces anything; one that answers with too
    many errors also for the time that `errors` says. The set is verified once a
    replica has answered; when no healthy one is left, it is unverified until the next one answers. While
    replicas die whatever they are asked (`deaths.is_broken`), only a call that is answered to its end counts.
    """

    def __init__(self, app: str) -> None:
        self.running: frozenset[str] = frozenset()
        self.ejected: frozenset[str] = frozenset()
        self.is_verified = False
        # As `Engine.vocabulary`; None also if replicas differ, and that of the last ones while none runs.
        self.vocabulary: str | None = None
        self.calls = CallPlacements()
        self.deaths = DeathCount()
        self.errors = ErrorRate()
        self.claims = ProbeClaims()
        self._app = app
        self._reasons: dict[str, str] = {}
        self._adapters: WeakValueDictionary[str, AdapterReplicas] = WeakValueDictionary()

    @property
    def why_broken(self) -> str | None:
        """Why no replica can answer whatever it is asked; None: as far as is known, one can."""
        return DYING if self.deaths.is_broken else None

    @property
    def healthy(self) -> frozenset[str]:
        """The replicas that run and are not ejected."""
        return self.running - self.ejected

    @property
    def why_ejected(self) -> dict[str, str]:
        """The reason, by replica."""
        return {replica: self._reasons[replica] for replica in sorted(self.ejected)}

    def for_adapter(self, adapter: str | None) -> ReplicaSet | AdapterReplicas:
        """The replicas as calls of this adapter see them. None: the set itself."""
        return self if adapter is None else self._adapter_set(adapter)

    def ejected_for(self, adapter: str | None) -> frozenset[str]:
        """The replicas that calls of this adapter avoid."""
        known = None if adapter is None else self._adapters.get(adapter)
        return self.ejected if known is None else known.ejected

    def set_running(self, replicas: Iterable[str], vocabularies: Iterable[str | None] = ()) -> None:
        """Serve's latest list of replicas, with their vocabularies; what is not on it is forgotten."""
        if found := set(vocabularies):
            self.vocabulary = found.pop() if len(found) == 1 else None
        self._update(frozenset(replicas), self.ejected)

    def eject(self, replica: str | None, reason: str) -> None:
        """Avoid the replica from now on. None (a call that no replica was chosen for) changes nothing."""
        if replica is None or replica not in self.healthy:
            return
        self._reasons[replica] = reason
        self._update(self.running, self.ejected | {replica})
        left, total = len(self.healthy), len(self.running)
        logger.warning(
            "%s: replica %s is ejected: %s; %d of %d are left", self._app, replica, reason, left, total
        )

    def answered(self, replica: str | None) -> None:
        """The replica produced something."""
        if replica is None or replica not in self.running:  # a replica that is leaving may finish its calls
            return
        if self.errors.is_set_aside(replica):
            return
        if replica in self.ejected:
            logger.info("%s: replica %s answers again", self._app, replica)
        self.ejected -= {replica}
        self.is_verified = not self.deaths.is_broken

    def call_produced(self, request_id: str, adapter: str | None, finish: Finish | None) -> None:
        """A chunk arrived. CANCELLED: the replica gave the call up, because it is shutting down."""
        replica = self.calls.find(request_id).replica
        if finish is Finish.CANCELLED:
            self.eject(replica, "it cancels its calls")
            return
        replicas = self.for_adapter(adapter)
        if finish is not None and replica is not None:
            self.errors.ended(replica, failed=False)
        if finish is not None:
            for deaths in {self.deaths, replicas.deaths}:
                deaths.answered()
        replicas.answered(replica)

    def call_failed(self, request_id: str, adapter: str | None, failure: RouterError, reason: str) -> None:
        """Eject the replica that had the call, if the failure is its own; `reason` goes into the log."""
        replica = self.calls.find(request_id).replica
        if isinstance(failure, ModelDied):
            for replicas in {self, self.for_adapter(adapter)}:
                replicas.deaths.died(failure.replica, len(self.running))
                replicas.is_verified = replicas.is_verified and not replicas.deaths.is_broken
        if isinstance(failure, ModelFailed) and replica is not None:
            self.errors.ended(replica, failed=True)
            if self.errors.is_outlier(replica, len(self.running)):
                self.errors.set_aside(replica)
                self.eject(replica, "too many of its calls fail")
        elif isinstance(failure, AdapterMissing) and adapter is not None:
            is_broken = isinstance(failure, AdapterBroken)
            self._adapter_set(adapter).mark_missing(replica, is_broken=is_broken)
        elif isinstance(failure, ModelUnavailable) and not isinstance(failure, ModelOverloaded):
            self.eject(replica, reason)

    def call_stalled(self, request_id: str) -> None:
        """The call produced nothing in time."""
        self.eject(self.calls.find(request_id).replica, "it produced nothing in time")

    def _update(self, running: frozenset[str], ejected: frozenset[str]) -> None:
        self.running, self.ejected = running, ejected & running
        self.errors.keep(running)
        self._reasons = {replica: why for replica, why in self._reasons.items() if replica in self.ejected}
        self.is_verified = self.is_verified and bool(self.healthy)
        for found in self._adapters.valuerefs():  # a list: Serve may choose replicas in another thread
            if (known := found()) is not None:
                known.refresh()

    def _adapter_set(self, adapter: str) -> AdapterReplicas:
        found = self._adapters.get(adapter)
        if found is None:
            found = self._adapters[adapter] = AdapterReplicas(self, adapter)
        return found


class AdapterReplicas:
    """A `ReplicaSet` as the calls of one adapter see it: they also avoid replicas that lack the adapter.

    What a call reveals about the adapter counts here alone; everything else counts for the application.
    """

    def __init__(self, replicas: ReplicaSet, adapter: str) -> None:
        self.is_verified = False
        self.deaths = DeathCount()
        self._replicas = replicas
        self._adapter = adapter
        self._missing: frozenset[str] = frozenset()
        self._broken: frozenset[str] = frozenset()

    @property
    def calls(self) -> CallPlacements:
        return self._replicas.calls

    @property
    def running(self) -> frozenset[str]:
        return self._replicas.running

    @property
    def ejected(self) -> frozenset[str]:
        return self._replicas.ejected | (self._missing & self.running)

    @property
    def healthy(self) -> frozenset[str]:
        return self.running - self.ejected

    @property
    def why_broken(self) -> str | None:
        """As for a `ReplicaSet`. All replicas that run may also be unable to load the adapter."""
        if self.running and self.running <= self._broken:
            return "none of its replicas can load its adapter"
        return DYING if self.deaths.is_broken else self._replicas.why_broken

    def lacks(self, replica: str) -> bool:
        return replica in self._missing

    def mark_missing(self, replica: str | None, *, is_broken: bool) -> None:
        """The replica does not have the adapter (yet); `is_broken`: it said that it cannot load it."""
        if replica is None or replica not in self.running:
            return
        if replica not in self._missing:
            verb = "cannot load" if is_broken else "does not have"
            logger.warning(
                "replica %s is avoided for adapter '%s', which it %s", replica, self._adapter, verb
            )
        self._missing |= {replica}
        self._broken = self._broken | {replica} if is_broken else self._broken - {replica}
        self.refresh()

    def answered(self, replica: str | None) -> None:
        """The replica produced something with the adapter."""
        self._replicas.answered(replica)
        if replica is None or replica not in self.running:
            return
        self._missing -= {replica}
        self._broken -= {replica}
        self.is_verified = not self.deaths.is_broken

    def call_stalled(self, request_id: str) -> None:
        self._replicas.call_stalled(request_id)

    def refresh(self) -> None:
        """Follow a change of the application's replicas."""
        self._missing &= self.running
        self._broken &= self.running
        self.is_verified = self.is_verified and bool(self.healthy)


_SETS: WeakValueDictionary[str, ReplicaSet] = WeakValueDictionary()
