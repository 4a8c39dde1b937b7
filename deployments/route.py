"""Route: the way to one model, open once the model has answered a question."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from deployments.remote import Connections, Deployed
from router.errors import ModelStalled, ModelUnavailable, RouterError, WakeFailed
from router.model import Ask, Finish, Message, Model, Prompt, Sampling
from router.routes import State
from router.table import Deadlines, ModelEntry

logger = logging.getLogger(__name__)

Connect = Callable[[str], Awaitable[Deployed]]

PROBE = Ask(
    request_id="probe",
    prompt=Prompt(messages=(Message("user", "ping"),)),
    sampling=Sampling(temperature=0.0),
    max_tokens=1,
)
MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0


class Route:
    """Opens by an answer: RUNNING says only that a process is up. Closes when a call finds the model away.

    A model that may sleep is asked only when somebody needs it or when it runs anyway, because the question
    would start it. One task does the asking, so however many wait, the model is started once.
    """

    def __init__(
        self, entry: ModelEntry, deadlines: Deadlines, models: Connections, connect: Connect
    ) -> None:
        self.entry = entry
        self.deadlines = deadlines
        self.num_waiting = 0
        self._models = models
        self._connect = connect
        self._model: Deployed | None = None
        self._answered = False
        self._failed = False  # it runs, and was asked in vain
        self._needed = False  # somebody waits for it, so it may be started
        self._opening: asyncio.Task[RouterError | None] | None = None

    @property
    def state(self) -> State:
        if not self.entry.wakes:
            return State.READY if self._answered else State.MASKED
        if not self._runs:
            return State.WAKING if self._needed else State.ASLEEP
        if self._answered:
            return State.READY
        return State.MASKED if self._failed else State.WAKING

    def update(self, entry: ModelEntry, deadlines: Deadlines) -> None:
        """Go on under a new table. The application is the same, so what it answered still counts."""
        self._forget_if_gone()
        self.entry, self.deadlines = entry, deadlines

    def look(self) -> None:
        """Take notice of what Serve did to the model meanwhile."""
        self._forget_if_gone()
        if not self._answered and (self._may_ask or self._model is None):
            self._open()

    def lost(self) -> None:
        """A call found the model away."""
        self._answered = False
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

    def close(self) -> list[asyncio.Task[RouterError | None]]:
        """Stop asking; returns what is left to wait for."""
        if self._opening is None:
            return []
        self._opening.cancel()
        return [self._opening]

    @property
    def _runs(self) -> bool:  # read for every sleeper at every decision
        return self._model is not None and self._model.is_running

    @property
    def _may_ask(self) -> bool:
        return not self.entry.wakes or self._needed or self._runs

    def _forget_if_gone(self) -> None:
        if self.entry.wakes and not self._runs:  # whatever comes up next is asked anew
            self._answered = self._failed = False

    def _open(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._ask_until_open(), name=f"open {self.entry.app}")

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
            self._models.add(app, await self._connect(app))
        self._model = self._models[app]
        limit_s = self.deadlines.first_token_s
        if self.entry.wakes:
            limit_s = began + self.deadlines.wake_s - _now()
        if not self._may_ask:
            return
        await _answer(self._model, limit_s)
        self._answered = True

    def _gives_up(self, why: RouterError, taken_s: float) -> bool:
        """A model that may sleep is kept up by every question, so there is an end to asking it."""
        passes = isinstance(why, ModelUnavailable) and taken_s < self.deadlines.wake_s
        return self.entry.wakes and not passes


async def _answer(model: Model, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s), aclosing(model.stream(PROBE)) as pieces:
            async for piece in pieces:
                if piece.finish is Finish.CANCELLED:
                    break  # a replica that shuts down
                if piece.finish:
                    return
    except TimeoutError as error:
        raise ModelStalled(f"no answer within {limit_s:g} s") from error
    raise ModelUnavailable("the stream ended without an answer")


def _now() -> float:
    return asyncio.get_running_loop().time()
