"""The decode loop: the state machine of one answer, from the meta to an expert to the end.

    META --expert token--> EXPERT --end of turn--> done           (after_expert: finish)
     ^                        |
     +------------------------+                                   (after_expert: return, max_handoffs)

A model that fails is resumed from the text already received; when it cannot be, the meta decides the same
position again with that expert masked; so it does when it calls for an expert that sleeps and is not waited
for (cold_start: meta). Whatever happens, the client's text is the concatenation of the spans.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

from router.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    ModelFailed,
    ModelStalled,
    ModelUnavailable,
    RouterError,
    WakeFailed,
)
from router.job import Answering, Delta, Done, Job, ModelUsage
from router.model import Ask, Finish, Models, Piece
from router.policy import Recovery, after_failure, allowed_experts
from router.routes import Routes, State
from router.table import META, ModelEntry, RouteTable
from router.transcript import Transcript


class Decoder:
    """Decodes answers against one route table; cheap to make, one per request.

    `routes` is asked at every decision, so an expert that opens or closes meanwhile is seen at once.
    """

    def __init__(
        self, table: RouteTable, models: Models, routes: Routes, *, retry_pause_s: float = 0.05
    ) -> None:
        self._table = table
        self._models = models
        self._routes = routes
        self._retry_pause_s = retry_pause_s

    async def decode(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        """Write one answer: any number of `Delta`, then one `Done`.

        Raises:
            RequestError: the request cannot be served as asked.
            ServiceError: nobody could go on writing; everything yielded so far stands.
        """
        state = Answering(job.target.writer, Transcript(job.stop), self._deadline())
        state.transcript.begin(state.writer)
        finish = state.limit(job)
        while finish is None:
            last = Piece()
            try:
                async with aclosing(self._call(job, state)) as pieces:
                    async for last in pieces:
                        for model, text in state.receive(last):
                            yield Delta(text, model)
                        if state.transcript.stopped:
                            break
            except RouterError as error:
                # Whoever fails after the last token takes nothing along.
                finish = state.limit(job) or await self._recover(job, state, error)
            else:
                finish = self._after(job, state, last) or state.limit(job)
        for model, text in state.transcript.close():
            yield Delta(text, model)
        yield state.done(finish)

    async def distribution(self, job: Job) -> Piece:
        """Where the conversation would go next: a piece with the distribution over experts, nothing written.

        Raises:
            RouterError: as `decode`; the meta is asked again while that may help.
        """
        state = Answering(META, Transcript(), self._deadline())
        while True:
            try:
                async with aclosing(self._call(job, state, probe=True)) as pieces:
                    async for piece in pieces:
                        if piece.distribution is not None:
                            return piece
                raise ModelFailed("the meta ended a probe without a distribution")
            except RouterError as error:
                await self._recover(job, state, error)

    async def _call(self, job: Job, state: Answering, *, probe: bool = False) -> AsyncGenerator[Piece, None]:
        """Stream the writer of the moment until it finishes, under all three deadlines."""
        entry = self._entry(state.writer)
        if entry.wakes:
            await self._awake(state)
        usage = state.usage.setdefault(state.writer, ModelUsage())
        usage.num_calls += 1
        limit_s = self._table.deadlines.first_token_s
        ask = self._ask(job, state, probe)
        async with aclosing(self._models[entry.app].stream(ask)) as stream:
            finish = None
            while finish is None:
                piece = await _within(stream, limit_s, state)
                usage.num_prompt_tokens += piece.num_prompt_tokens or 0
                usage.num_completion_tokens += piece.num_tokens
                finish = piece.finish
                if piece.num_tokens:
                    limit_s = self._table.deadlines.gap_s
                yield piece
                if finish is Finish.CANCELLED:
                    raise ModelUnavailable(f"the replica of {state.writer} gave the request up")
                # Not `_allowed` again: routes may have changed since the model was asked.
                if finish is Finish.EXPERT and piece.expert not in ask.allowed:
                    raise ModelFailed(f"{state.writer} handed over to '{piece.expert}' unasked")

    async def _awake(self, state: Answering) -> None:
        """Wait until the writer is there; a deadline of its own bounds that, and not the answer's."""
        deadlines, clock = self._table.deadlines, asyncio.get_running_loop().time
        # One that was there and died is waited for no longer than any other.
        limit_s = deadlines.first_token_s if state.failures[state.writer] else deadlines.wake_s
        began = clock()
        try:
            async with asyncio.timeout(limit_s):
                await self._routes.awake(state.writer)
        except TimeoutError as error:
            raise WakeFailed(f"{state.writer} did not start within {limit_s:g} s") from error
        finally:
            state.deadline += clock() - began

    def _ask(self, job: Job, state: Answering, probe: bool) -> Ask:
        written = state.transcript.text
        allowed = self._allowed(job, state) if state.writer == META else ()
        return Ask(
            request_id=job.request_id,
            prompt=job.prompt,
            sampling=job.sampling,
            max_tokens=None if job.max_tokens is None else job.max_tokens - state.transcript.num_tokens,
            written=written,
            position=state.transcript.num_tokens,
            allowed=allowed,
            bias=self._bias(job, allowed),
            only_at_start=self._table.when == "start",
            probe=probe,
        )

    def _allowed(self, job: Job, state: Answering) -> tuple[str, ...]:
        if not job.target.routed or (self._table.when == "start" and state.transcript.text):
            return ()
        return allowed_experts(
            self._table,
            job.routing,
            state_of=self._routes.state,
            masked=state.masked,
            num_handoffs=state.num_handoffs,
        )

    def _bias(self, job: Job, allowed: tuple[str, ...]) -> dict[str, float]:
        call_bias = self._table.call_bias + job.routing.call_bias
        biases = {name: call_bias + job.routing.bias.get(name, 0.0) for name in allowed}
        return {name: bias for name, bias in biases.items() if bias}

    def _after(self, job: Job, state: Answering, last: Piece) -> Finish | None:
        """Who writes next; a finish reason if nobody does."""
        if state.transcript.stopped:
            return Finish.STOP
        if last.finish is Finish.EXPERT:
            assert last.expert is not None, "_call lets only allowed experts through"
            if self._is_left_to_meta(last.expert):
                self._routes.wake(last.expert)
                state.masked.add(last.expert)
                return None
            state.num_handoffs += 1
            state.pass_pen(last.expert, last.probability)
            return None
        if last.finish is not Finish.STOP or state.writer == META or self._table.after_expert == "finish":
            return last.finish
        if not job.target.routed:
            return Finish.STOP
        state.pass_pen(META)
        return None

    def _is_left_to_meta(self, expert: str) -> bool:
        asleep = self._routes.state(expert) in (State.ASLEEP, State.WAKING)
        return asleep and self._entry(expert).cold_start == "meta"

    async def _recover(self, job: Job, state: Answering, error: RouterError) -> Finish | None:
        """Choose who goes on after a failure; raises the error when nobody can.

        A window that is full once there is text is no error: the answer is as long as it can be.
        """
        failed = state.writer
        state.failures[failed] += 1
        recovery = after_failure(
            error,
            is_expert=failed != META,
            routed=job.target.routed,
            num_failures=state.failures[failed],
            retries=self._table.retries,
        )
        if recovery is Recovery.FAIL and isinstance(error, ContextLengthExceeded) and state.transcript.text:
            return Finish.LENGTH
        if recovery is Recovery.FAIL:
            raise error
        if recovery is Recovery.REDECIDE:
            state.masked.add(failed)
            state.num_handoffs -= 1  # or a failure would use up the hop of the next best expert
            state.pass_pen(META)
            return None
        await asyncio.sleep(self._retry_pause_s * random.uniform(0.5, 1.5))
        return None

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._table.deadlines.total_s

    def _entry(self, writer: str) -> ModelEntry:
        return self._table.meta if writer == META else self._table.experts[writer]


async def _within(stream: AsyncGenerator[Piece, None], limit_s: float, state: Answering) -> Piece:
    """The next piece, or the error that says which deadline it missed."""
    left_s = state.deadline - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(limit_s, left_s)):
            return await anext(stream)
    except StopAsyncIteration as error:
        raise ModelUnavailable(f"{state.writer} ended its stream without a finish reason") from error
    except TimeoutError as error:
        if left_s < limit_s:
            raise DeadlineExceeded(
                f"the answer was not complete in time; {state.writer} was writing"
            ) from error
        raise ModelStalled(f"{state.writer} produced nothing for {limit_s:g} s") from error
