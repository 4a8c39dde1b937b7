"""The decode loop: the state machine of one answer, from the meta to an expert to the end.

    META --expert token--> EXPERT --end of turn--> done           (after_expert: finish)
     ^                        |
     +------------------------+                                   (after_expert: return, max_handoffs)

A model that fails is resumed from the text already received; when it cannot be, the meta decides the same
position again with that expert masked; so it does when it calls for an expert that sleeps and is not waited
for (cold_start: meta). A prompt that takes replica after replica down is kept from that model. Whatever
happens, the client's text is the concatenation of the spans.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import chain

from router.admission import Admission
from router.call import Caller
from router.errors import (
    ContextLengthExceeded,
    ModelFailed,
    ModelStalled,
    RouterError,
)
from router.job import Answering, Delta, Done, Job
from router.model import Ask, Finish, Models, Piece
from router.policy import Recovery, after_failure, allowed_experts
from router.quarantine import Quarantine, poison
from router.routes import Routes, State
from router.table import META, RouteTable
from router.timing import Meter, NoMeter
from router.transcript import Transcript

# So many replicas that died of a prompt, with no token in between, are no coincidence.
POISON_DEATHS = 2


class Decoder:
    """Decodes answers against one route table; cheap to make, one per request.

    `routes` is asked at every decision, so an expert that opens or closes meanwhile is seen at once.
    `admission`, `quarantine` and `meter` are shared by all decoders of a router.
    """

    def __init__(
        self,
        table: RouteTable,
        models: Models,
        routes: Routes,
        *,
        admission: Admission | None = None,
        quarantine: Quarantine | None = None,
        meter: Meter | None = None,
        retry_pause_s: float = 0.05,
    ) -> None:
        self._table = table
        self._routes = routes
        self._quarantine = quarantine or Quarantine()
        admission = admission or Admission(routes.num_slots, routes.max_slots)
        self._caller = Caller(table, models, routes, admission, self._quarantine)
        self._meter = meter or NoMeter()
        self._retry_pause_s = retry_pause_s

    async def decode(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        """Write one answer: any number of `Delta`, then one `Done`.

        Raises:
            RequestError: the request cannot be served as asked.
            ServiceError: nobody could go on writing; everything yielded so far stands.
        """
        state = self._begin(job, Transcript(job.stop))
        try:
            finish = state.limit(job)
            while finish is None:
                last = Piece()
                try:
                    async with aclosing(self._call(job, state)) as pieces:
                        async for last in pieces:
                            for model, text in state.receive(last):
                                state.timing.shown()
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
        finally:
            state.timing.over()
            self._meter.ended(state.timing)

    async def distribution(self, job: Job) -> Piece:
        """Where the conversation would go next: a piece with the distribution over experts, nothing written.

        Raises:
            RouterError: as `decode`; the meta is asked again while that may help.
        """
        state = self._begin(job, Transcript())
        while True:
            try:
                async with aclosing(self._call(job, state, probe=True)) as pieces:
                    async for piece in pieces:
                        if piece.distribution is not None:
                            return piece
                raise ModelFailed("the meta ended a probe without a distribution")
            except RouterError as error:
                await self._recover(job, state, error)

    def _begin(self, job: Job, transcript: Transcript) -> Answering:
        writer = job.target.writer
        deadline = asyncio.get_running_loop().time() + self._table.deadlines.total_s
        table = self._table
        barred = self._quarantine.barred(chain((table.meta.app,), table.expert_apps), job.prompt)
        if table.app(writer) in barred:
            raise poison(writer)
        masked = {name for name in table.experts if table.app(name) in barred} if barred else set()
        state = Answering(writer, transcript, deadline, masked=masked)
        transcript.begin(writer)
        return state

    def _call(self, job: Job, state: Answering, *, probe: bool = False) -> AsyncGenerator[Piece, None]:
        return self._caller.pieces(job, state, lambda: self._ask(job, state, probe))

    def _ask(self, job: Job, state: Answering, probe: bool) -> Ask:
        written, resumed = state.transcript.split()
        allowed = self._allowed(job, state) if state.writer == META else ()
        return Ask(
            request_id=job.request_id,
            prompt=job.prompt,
            sampling=job.sampling,
            max_tokens=None if job.max_tokens is None else job.max_tokens - state.transcript.num_tokens,
            written=written,
            resumed=resumed,
            position=state.transcript.num_tokens,
            allowed=allowed,
            bias=self._bias(job, allowed),
            only_at_start=self._table.when == "start",
            probe=probe,
            adapter=self._table.entry(state.writer).adapter,
            # What waits is not yet silence.
            message_gap_s=min(job.message_gap_s, self._table.gap_s(state.writer) / 4),
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
        if not (call_bias or job.routing.bias):
            return {}
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
        return asleep and self._table.entry(expert).cold_start == "meta"

    async def _recover(self, job: Job, state: Answering, error: RouterError) -> Finish | None:
        """Choose who goes on after a failure; raises the error when nobody can.

        A window that is full once there is text is no error: the answer is as long as it can be.
        """
        failed, is_expert = state.writer, state.writer != META
        if isinstance(error, ModelStalled):
            self._routes.stalled(failed, job.request_id)
        state.failed(error)
        if len(state.deaths[failed]) >= POISON_DEATHS:
            self._quarantine.add(self._table.app(failed), job.prompt)
            error = poison(failed)
        may_retry = self._may_retry(state, replaceable=is_expert and job.target.routed)
        recovery = after_failure(error, is_expert=is_expert, routed=job.target.routed, may_retry=may_retry)
        if recovery is Recovery.FAIL and isinstance(error, ContextLengthExceeded) and state.transcript.text:
            return Finish.LENGTH
        if recovery is Recovery.FAIL:
            raise error
        if recovery is Recovery.REDECIDE:
            state.masked.add(failed)
            state.num_handoffs -= 1  # or a failure would use up the hop of the next best expert
            state.pass_pen(META)
            return None
        # Longer each time, and never for all who lost the same replica at once.
        pause_s = self._retry_pause_s * 2 ** (state.failures[failed] - 1)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        return None

    def _may_retry(self, state: Answering, *, replaceable: bool) -> bool:
        if state.failures[state.writer] > self._table.retries or state.num_failures > self._table.max_resumes:
            return False
        # Where the meta can go on at once, nobody need wait for a replica that is still to start.
        is_left = replaceable and self._table.entry(state.writer).when_away == "meta"
        gone = (State.AWAY, State.ASLEEP, State.WAKING)  # one that may sleep is never said to be away
        return not (is_left and self._routes.state(state.writer) in gone)
