"""One call of a model: until it is there, until it is let in, until it finishes; each with its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext

from router.admission import Admission
from router.errors import DeadlineExceeded, ModelFailed, ModelStalled, ModelUnavailable, WakeFailed
from router.job import Answering, Job, ModelUsage
from router.model import Ask, Finish, Models, Piece
from router.pace import now_s
from router.quarantine import Quarantine, Turn, poison
from router.routes import Routes, State
from router.table import META, RouteTable
from router.timing import CallTiming


class Caller:
    """Calls the models of one route table."""

    def __init__(
        self,
        table: RouteTable,
        models: Models,
        routes: Routes,
        admission: Admission,
        quarantine: Quarantine,
    ) -> None:
        self._table = table
        self._models = models
        self._routes = routes
        self._admission = admission
        self._quarantine = quarantine

    async def pieces(self, job: Job, state: Answering, ask: Callable[[], Ask]) -> AsyncGenerator[Piece, None]:
        """Stream the writer of the moment, once it is there and takes the call; only then `ask` is made.

        Raises:
            ModelUnavailable, ModelStalled, WakeFailed: as their names say.
            ModelFailed: the model did what it was not asked for.
            Overloaded: an answer that is to begin cannot be taken on.
            PoisonRequest: the prompt took replicas down meanwhile.
            DeadlineExceeded: the answer's total time is up.
        """
        with state.timing.call(state.writer) as timing:
            await self._awake(job, state)
            async with self._slot(job, state) as turn:
                timing.let_in()
                async with aclosing(self._stream(ask(), state, timing)) as pieces:
                    async for piece in pieces:
                        if piece.num_tokens:
                            turn.pass_on()
                        yield piece

    @asynccontextmanager
    async def _slot(self, job: Job, state: Answering) -> AsyncIterator[Turn]:
        """The writer lets the answer in while the block runs."""
        writer, left_s = state.writer, _left_s(state)
        app, meta = self._table.app(writer), self._table.app(META)
        let_in = set() if job.let_in is None else job.let_in
        async with self._admission.slot(
            writer,
            job.key,
            line=app,
            begun=state.begun,
            queue_s=left_s if app in let_in else min(self._table.deadlines.queue_s, left_s),
            max_waiting=self._table.limits.max_waiting,
            came_from=meta if meta in let_in and writer != META else None,
            may_go_to=self._may_go_to(job) if writer == META else (),
        ):
            let_in.add(app)
            state.admitted.add(writer)
            async with self._quarantine.watched(app, is_suspect=bool(state.deaths[writer])) as turn:
                state.is_alone = turn.is_alone
                if self._quarantine.barred([app], job.prompt):  # found while this one waited
                    raise poison(writer)
                yield turn

    def _may_go_to(self, job: Job) -> Collection[str]:
        if not job.target.routed:
            return ()
        if job.routing.experts is None and not job.routing.exclude:
            return self._table.expert_apps
        wanted = self._table.experts if job.routing.experts is None else job.routing.experts
        return {self._table.app(name) for name in wanted if name not in job.routing.exclude}

    async def _stream(self, ask: Ask, state: Answering, timing: CallTiming) -> AsyncGenerator[Piece, None]:
        """The writer's pieces until it finishes, under all three deadlines."""
        entry, deadlines = self._table.entry(state.writer), self._table.deadlines
        usage = state.usage.setdefault(state.writer, ModelUsage())
        usage.num_calls += 1
        limit_s = entry.first_token_s or deadlines.first_token_s
        async with aclosing(self._models[entry.app].stream(ask)) as stream:
            finish = None
            while finish is None:
                piece = await _within(stream, limit_s, state)
                timing.received(piece)
                usage.num_prompt_tokens += piece.num_prompt_tokens or 0
                usage.num_completion_tokens += piece.num_tokens
                finish = piece.finish
                if piece.num_tokens:
                    limit_s = self._table.gap_s(state.writer)
                yield piece
                timing.handed_on()
                if finish is Finish.CANCELLED:
                    raise ModelUnavailable(f"the replica of {state.writer} gave the request up")
                # Not `_allowed` again: routes may have changed since the model was asked.
                if finish is Finish.EXPERT and piece.expert not in ask.allowed:
                    raise ModelFailed(f"{state.writer} handed over to '{piece.expert}' unasked")

    async def _awake(self, job: Job, state: Answering) -> None:
        """Wait until the writer is there; the start of those that slept has a deadline of its own."""
        wakes, place = self._table.entry(state.writer).wakes, self._routes.state(state.writer)
        if place is State.READY or not (wakes or place is State.AWAY):
            return
        began_s, limit_s = now_s(), self._start_limit_s(state)
        try:
            async with self._place_to_wait(job, state), asyncio.timeout(limit_s):
                await self._routes.awake(state.writer)
        except TimeoutError as error:
            if wakes:
                raise WakeFailed(f"{state.writer} did not start in time") from error
            _left_s(state)
            raise ModelUnavailable(f"no replica of {state.writer} came back in time") from error
        finally:
            if wakes:
                state.waking_s += now_s() - began_s
                state.deadline += now_s() - began_s

    def _start_limit_s(self, state: Answering) -> float:
        entry, deadlines = self._table.entry(state.writer), self._table.deadlines
        return_s = entry.first_token_s or deadlines.first_token_s
        if not entry.wakes:
            return min(return_s, state.deadline - now_s())
        wake_s = max(0.0, deadlines.wake_s - state.waking_s)  # of a whole answer, whoever sleeps
        # One that was there and died is waited for no longer than any other.
        return min(return_s, wake_s) if state.failures[state.writer] else wake_s

    def _place_to_wait(self, job: Job, state: Answering) -> AbstractAsyncContextManager[None]:
        if state.begun:
            return nullcontext()
        return self._admission.waiting_for_start(
            state.writer,
            job.key,
            line=self._table.app(state.writer),
            max_waiting=self._table.limits.max_waiting,
        )


def _left_s(state: Answering) -> float:
    """What is left of the answer's time. Raises DeadlineExceeded when nothing is."""
    left_s = state.deadline - now_s()
    if left_s <= 0:
        raise _too_late(state)
    return left_s


def _too_late(state: Answering) -> DeadlineExceeded:
    return DeadlineExceeded(f"the answer was not complete in time; {state.writer} was writing")


async def _within(stream: AsyncGenerator[Piece, None], limit_s: float, state: Answering) -> Piece:
    """The next piece, or the error that says which deadline it missed."""
    left_s = state.deadline - now_s()
    try:
        async with asyncio.timeout(min(limit_s, left_s)):
            return await anext(stream)
    except StopAsyncIteration as error:
        raise ModelUnavailable(f"{state.writer} ended its stream without a finish reason") from error
    except TimeoutError as error:
        if left_s < limit_s:
            raise _too_late(state) from error
        raise ModelStalled(f"{state.writer} produced nothing for {limit_s:g} s") from error
