"""Route: the way to one model, open while a replica of it is known to answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from deployments.adapter_replicas import AdapterReplicas
from deployments.connections import Connect, Connections
from deployments.probe import Clearing, ask, start
from deployments.remote import Deployed
from deployments.replicas import ReplicaSet
from router.errors import AdapterBroken, ModelStalled, ModelUnavailable, RouterError, WakeFailed
from router.routes import State
from router.table import Deadlines, ModelEntry

logger = logging.getLogger(__name__)

# Of what the replicas take at once: so many more may be on their way. What waits there waits in nobody's turn
# and longer than anybody knows, so it is only enough to keep replicas busy and to be seen by the autoscaler.
PENDING_PART = 4
MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0


class Route:
    """Opens by an answer: RUNNING says only that a process is up. Closes when the last replica is suspect.

    A model that may sleep is asked only when somebody needs it or when it runs anyway, because the question
    would start it. One task does the asking, so however many wait, the model is started once. A replica that
    is suspect is asked by itself, also while the route is open.
    """

    def __init__(
        self,
        entry: ModelEntry,
        deadlines: Deadlines,
        models: Connections,
        connect: Connect,
        *,
        may_be_away: bool = False,
    ) -> None:
        """`may_be_away`: until it answers, it is taken to be away and not to be new."""
        self.entry = entry
        self.deadlines = deadlines
        self.num_waiting = 0
        self._models = models
        self._connect = connect
        self._model: Deployed | None = None
        self._replicas: ReplicaSet | AdapterReplicas | None = None  # of the model, for calls of the entry
        self._answered = may_be_away  # at some time, or since it was last started
        self._failed = False  # it runs, and was asked in vain
        self._needed = False  # somebody waits for it, so it may be started
        self._opening: asyncio.Task[RouterError | None] | None = None
        self._clearing = Clearing(entry.adapter)

    @property
    def state(self) -> State:
        # First: so it is with nearly all experts, and all are asked at every decision.
        if self._is_proven:
            return State.READY
        if self.entry.wakes and not self._num_running:
            return State.WAKING if self._needed else State.ASLEEP
        if self._replicas is not None and self._replicas.is_broken:
            return State.FAILED
        if self._answered:
            return State.AWAY
        return State.WAKING if self.entry.wakes and not self._failed else State.MASKED

    @property
    def is_connected(self) -> bool:
        """Whether it knows the replicas."""
        return self._replicas is not None

    @property
    def num_slots(self) -> int:
        num_taken = 0 if self._replicas is None else self._replicas.num_taken
        return num_taken + self.max_slots - self._num_streams

    @property
    def max_slots(self) -> int:
        return self._num_streams + max(1, self._num_streams // PENDING_PART)

    @property
    def _num_streams(self) -> int:
        return max(1, self._num_running) * self.entry.max_streams

    def update(self, entry: ModelEntry, deadlines: Deadlines) -> None:
        """Go on under a new table. The application is the same, so what it answered still counts."""
        self._forget_if_gone()
        self.entry, self.deadlines = entry, deadlines

    def look(self) -> None:
        """Take notice of what became of the replicas meanwhile."""
        self._forget_if_gone()
        self._answered = self._answered or self._is_proven
        if not self._is_proven and (self._may_ask or self._model is None):
            self._open()
        if self._model is not None:
            self._clearing.look(self._model, self._first_token_s)

    def stalled(self, request_id: str) -> None:
        """Whoever has this call produced nothing in time."""
        if self._replicas is not None:
            self._replicas.stalled(request_id)
            self.look()

    def wake(self) -> None:
        if self.state is not State.READY:
            self._forget_if_gone()
            self._needed = True
            self._open()

    async def awake(self) -> None:
        """As `Routes.awake`. Who waits here and leaves does not end the start for the others."""
        if self.state is State.READY:
            return
        self.wake()
        opening = self._opening
        assert opening is not None, "wake begins one"
        self.num_waiting += 1
        try:
            await asyncio.wait({opening})
        finally:
            self.num_waiting -= 1
        if opening.cancelled():
            raise ModelUnavailable(f"the route to {self.entry.app} was taken away")
        if why := opening.result():
            raise WakeFailed(f"{self.entry.app} did not start: {why}") from why

    @property
    def opening(self) -> asyncio.Task[Any] | None:
        """What asks the model at the moment."""
        return self._opening

    def close(self) -> list[asyncio.Task[Any]]:
        """Stop asking; returns what is left to wait for."""
        clearing = self._clearing.close()
        if self._opening is None:
            return [*clearing]
        self._opening.cancel()
        return [*clearing, self._opening]

    @property
    def _num_running(self) -> int:  # read for every model at every decision
        return 0 if self._replicas is None else len(self._replicas.running)

    @property
    def _is_proven(self) -> bool:
        return self._replicas is not None and self._replicas.is_proven

    @property
    def _may_ask(self) -> bool:
        return not self.entry.wakes or self._needed or self._num_running > 0

    @property
    def _first_token_s(self) -> float:
        return self.entry.first_token_s or self.deadlines.first_token_s

    def _forget_if_gone(self) -> None:
        if self.entry.wakes and not self._num_running:  # whatever comes up next is asked anew
            self._answered = self._failed = False

    def _open(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = start(self._ask_until_open(), f"open {self.entry.app}")

    async def _ask_until_open(self) -> RouterError | None:
        """Returns what kept the route closed, where asking has an end."""
        began, pause_s, told = _now(), MIN_PAUSE_S, False
        try:
            while True:
                why: RouterError
                try:
                    await self._try_to_open(began)
                    self._failed = False
                    return None
                except RouterError as error:
                    why = error
                except Exception as error:  # whatever it is, the route must not stay closed for good
                    why = ModelUnavailable(f"asking {self.entry.app} failed: {type(error).__name__}")
                    if not told:
                        logger.exception("opening the route to %s failed; it is tried again", self.entry.app)
                    told = True
                if self._gives_up(why, _now() + pause_s - began):
                    self._failed = True
                    return why
                logger.info("%s does not answer yet: %s", self.entry.app, why)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        finally:
            self._needed = False

    async def _try_to_open(self, began: float) -> None:
        app = self.entry.app
        if app not in self._models:  # a handle outlives the replicas behind it, and is not free
            await self._models.connect(app, self._connect)
        self._model = self._models[app]
        self._replicas = self._model.replicas.for_calls_of(self.entry.adapter)
        limit_s = began + self.deadlines.wake_s - _now() if self.entry.wakes else self._first_token_s
        until = _now() + limit_s
        self.look()
        await _someone_to_ask(self._replicas, until)
        if self._may_ask and not self._is_proven:
            async with self._models.one_asks(app, self.entry.adapter):  # the first answer is the others' too
                if not self._is_proven:
                    limit_s = max(MIN_PAUSE_S, until - _now())
                    await ask(self._model, limit_s, adapter=self.entry.adapter)
        self.look()

    def _gives_up(self, why: RouterError, taken_s: float) -> bool:
        """A model that may sleep is kept up by every question, so there is an end to asking it."""
        may_pass = isinstance(why, ModelUnavailable) and not isinstance(why, AdapterBroken)
        passes = may_pass and taken_s < self.deadlines.wake_s
        return self.entry.wakes and not passes


async def _someone_to_ask(replicas: ReplicaSet | AdapterReplicas, until: float) -> None:
    """Wait while all that run are suspects, for each of these is being asked by itself."""
    while replicas.running and not replicas.healthy:
        left_s = until - _now()
        if left_s <= 0:
            raise ModelStalled("no replica answers")
        await asyncio.sleep(min(left_s, MIN_PAUSE_S))


def _now() -> float:
    return asyncio.get_running_loop().time()
