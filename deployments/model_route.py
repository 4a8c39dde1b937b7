"""The route to one model, open while at least one replica is known to answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from deployments.connections import Connect, Connections
from deployments.probe import EjectedReplicaProber, probe, start, wait_for_healthy
from deployments.remote import Deployed
from deployments.replicas.replica_set import AdapterReplicas, ReplicaSet
from router.availability import ModelState
from router.clock import now_s
from router.errors import AdapterBroken, ModelBroken, ModelDied, ModelUnavailable, RouterError, WakeFailed
from router.table import Deadlines, ModelEntry

logger = logging.getLogger(__name__)

# Calls on their way to replicas, as a fraction (1 in 4) of what the replicas take at once. Calls that wait
# there bypass the fair queue, so this is only enough to keep replicas busy and to be seen by the autoscaler.
PENDING_DIVISOR = 4
MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0


class ModelRoute:
    """Opens when a probe is answered, because RUNNING only means that a process is up. Closes when the last
    replica is ejected.
    A model that scales to zero is probed only if a caller needs it or if it runs anyway, because a probe
    would start it. A single task probes, so the model is started once for all callers. An ejected replica is
    probed separately, also while the route is open.
    """

    def __init__(
        self,
        entry: ModelEntry,
        deadlines: Deadlines,
        models: Connections,
        connect: Connect,
        *,
        may_have_served: bool = False,
    ) -> None:
        """`may_have_served`: until it answers, the model counts as unavailable and not as new."""
        self.entry = entry
        self.deadlines = deadlines
        self.num_waiting = 0
        self._models = models
        self._connect = connect
        self._model: Deployed | None = None
        self._replicas: ReplicaSet | AdapterReplicas | None = None  # as calls of this entry see them
        self._has_answered = may_have_served  # ever, or since it was last started
        # Which replicas ran, and how many calls the model had had, when a probe last failed.
        self._given_up: tuple[frozenset[str], int] | None = None
        self._needed = False  # a caller waits, so the model may be started
        self._opening: asyncio.Task[RouterError | None] | None = None
        self._prober = EjectedReplicaProber(entry.adapter)

    @property
    def state(self) -> ModelState:
        # Checked first: nearly all experts are ready, and the state of each is read at every decision.
        if self._is_verified:
            return ModelState.READY
        if self.entry.scales_to_zero and not self._num_running:
            return ModelState.WAKING if self._needed else ModelState.ASLEEP
        if self._why_broken is not None:
            return ModelState.FAILED
        if self._has_answered:
            return ModelState.UNAVAILABLE
        is_starting = self.entry.scales_to_zero and self._given_up is None
        return ModelState.WAKING if is_starting else ModelState.MASKED

    @property
    def first_token_s(self) -> float:
        return self.entry.first_token_s or self.deadlines.first_token_s

    @property
    def is_connected(self) -> bool:
        """Whether the route knows its model's replicas."""
        return self._replicas is not None

    @property
    def num_slots(self) -> int:
        num_accepted = 0 if self._replicas is None else self._replicas.calls.num_accepted
        return num_accepted + self.max_slots - self._num_streams

    @property
    def max_slots(self) -> int:
        return self._num_streams + max(1, self._num_streams // PENDING_DIVISOR)

    @property
    def opening(self) -> asyncio.Task[Any] | None:
        """The task that probes the model now, or the last one that did."""
        return self._opening

    def update(self, entry: ModelEntry, deadlines: Deadlines) -> None:
        """Continue under a new table. The application is the same, so its earlier answers still count."""
        self._forget_if_asleep()
        self.entry, self.deadlines = entry, deadlines

    def refresh(self) -> None:
        """React to changes of the replicas: probe what needs a probe."""
        self._forget_if_asleep()
        self._has_answered = self._has_answered or self._is_verified
        if not self._is_verified and (self._model is None or self._may_reopen):
            self._open()
        if self._model is not None:
            may_continue = self._may_keep_probing
            self._prober.refresh(self._model, self.first_token_s, may_continue, is_needed=self._needed)

    def stalled(self, request_id: str) -> None:
        """The call produced nothing in time."""
        if self._replicas is not None:
            self._replicas.call_stalled(request_id)
            self.refresh()

    def wake(self) -> None:
        if self.state is not ModelState.READY:
            self._forget_if_asleep()
            self._needed = True
            self._open()

    async def wait_until_ready(self) -> None:
        """As `ModelAvailability.wait_until_ready`. A caller that stops waiting does not end the start."""
        if self.state is ModelState.READY:
            return
        self._require_unbroken()
        self.wake()
        opening = self._opening
        assert opening is not None, "wake() starts one"
        self.num_waiting += 1
        try:
            await asyncio.wait({opening})
        finally:
            self.num_waiting -= 1
        if opening.cancelled():
            raise ModelUnavailable(f"the route to {self.entry.app} was removed")
        if failure := opening.result():
            if not isinstance(failure, AdapterBroken):
                self._require_unbroken()
            raise WakeFailed(f"{self.entry.app} did not start: {failure}") from failure

    def close(self) -> list[asyncio.Task[Any]]:
        """Stop probing; returns the tasks that are left to wait for."""
        tasks: list[asyncio.Task[Any]] = [*self._prober.close()]
        if self._opening is not None:
            self._opening.cancel()
            tasks.append(self._opening)
        return tasks

    @property
    def _why_broken(self) -> str | None:
        return None if self._replicas is None else self._replicas.why_broken

    def _require_unbroken(self) -> None:
        if self.state is ModelState.FAILED:
            raise ModelBroken(f"{self.entry.app} has failed: {self._why_broken}; see `etr status`")

    @property
    def _num_running(self) -> int:  # read for every model at every decision
        return 0 if self._replicas is None else len(self._replicas.running)

    @property
    def _num_streams(self) -> int:
        return max(1, self._num_running) * self.entry.max_streams

    @property
    def _is_verified(self) -> bool:
        return self._replicas is not None and self._replicas.is_verified

    @property
    def _is_wanted(self) -> bool:
        return not self.entry.scales_to_zero or self._needed

    @property
    def _may_reopen(self) -> bool:
        """Serve counts a probe as a call, so a model that fails its probes would never scale to zero. After a
        failure it is probed again only when a caller needs it or its replicas change."""
        return self._is_wanted or (self._num_running > 0 and self._given_up != self._circumstances())

    def _may_keep_probing(self, since_s: float, num_begun: int) -> bool:
        """The same for an ejected replica: after `wake_s` each further probe needs a call since the last."""
        is_recent = now_s() - since_s < self.deadlines.wake_s
        return self._is_wanted or is_recent or self._circumstances()[1] != num_begun

    def _circumstances(self) -> tuple[frozenset[str], int]:
        """Which replicas run, and how many calls the model has had."""
        if self._replicas is None:
            return frozenset(), 0
        return self._replicas.running, self._replicas.calls.num_begun

    def _forget_if_asleep(self) -> None:
        if self.entry.scales_to_zero and not self._num_running:  # whatever starts next must answer first
            self._has_answered, self._given_up = False, None

    def _open(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = start(self._probe_until_open(), f"open {self.entry.app}")

    async def _probe_until_open(self) -> RouterError | None:
        """Returns None when the route is open, or why probing ended without that."""
        began_s, pause_s, is_logged = now_s(), MIN_PAUSE_S, False
        try:
            while True:
                try:
                    await self._try_to_open(began_s)
                except RouterError as error:
                    failure = error
                except Exception as error:  # otherwise an unexpected error would close the route forever
                    failure = ModelUnavailable(f"probing {self.entry.app} failed: {type(error).__name__}")
                    if not is_logged:
                        logger.exception("opening the route to %s failed and is retried", self.entry.app)
                    is_logged = True
                else:
                    self._given_up = None
                    return None
                if self._gives_up(failure, now_s() + pause_s - began_s):
                    self._given_up = self._circumstances()
                    return failure
                logger.info("%s does not answer yet: %s", self.entry.app, failure)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        finally:
            self._needed = False

    async def _try_to_open(self, began_s: float) -> None:
        app, adapter = self.entry.app, self.entry.adapter
        if app not in self._models:  # a handle outlives the replicas behind it, and costs something
            await self._models.connect(app, self._connect)
        self._model = self._models[app]
        self._replicas = self._model.replicas.for_adapter(adapter)
        deadline_s = now_s() + self.first_token_s
        if self.entry.scales_to_zero:
            deadline_s = began_s + self.deadlines.wake_s
        self.refresh()
        await wait_for_healthy(self._replicas, deadline_s)
        if (self._is_wanted or self._num_running > 0) and not self._is_verified:
            async with self._models.probe_lock(app, adapter):
                if not self._is_verified:
                    await probe(self._model, max(MIN_PAUSE_S, deadline_s - now_s()), adapter=adapter)
        self.refresh()

    def _gives_up(self, failure: RouterError, taken_s: float) -> bool:
        """Whether to stop: probes keep a model running that scales to zero, and callers of a broken one must
        not wait until the next `refresh` probes it."""
        if isinstance(failure, ModelDied) and self._why_broken:
            return True
        is_transient = isinstance(failure, ModelUnavailable) and not isinstance(failure, AdapterBroken)
        return self.entry.scales_to_zero and not (is_transient and taken_s < self.deadlines.wake_s)
