"""The decode loop: the state machine of one answer, from the meta through the experts to the end.

    META --expert token--> EXPERT --end of turn--> done           (after_expert: finish)
     ^                        |
     +------------------------+                                   (after_expert: return, max_handoffs)

If a model fails, it is called again and resumes from the text received so far. If that is not possible, the
meta decides the same position again with that expert masked. It also does so if it has chosen an expert that
is asleep and not waited for (cold_start: meta). The client's text is always the concatenation of the spans.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import chain

from router.admission.controller import Admission
from router.admission.quarantine import Quarantine, poison_error
from router.availability import ModelAvailability, ModelState
from router.clock import now_s
from router.decoding.answer_spans import add_answer
from router.decoding.delta import Delta
from router.decoding.generation import Done, GenerationRequest, GenerationState
from router.decoding.model_call import ModelCaller
from router.decoding.policy import Recovery, admission_context, after_failure
from router.decoding.recorder import AnswerRecorder, NoRecorder
from router.decoding.request_builder import RequestBuilder
from router.decoding.timing import Meter, NoMeter
from router.decoding.transcript import Transcript
from router.errors import ContextLengthExceeded, ModelFailed, ModelStalled, RouterError
from router.model_port import Finish, ModelChunk, Models
from router.table import META, RouteTable
from router.tracing import CURRENT_TRACE

# A prompt is quarantined once this many replicas have died while working on it, with no token in between.
POISON_DEATHS = 2


class Decoder:
    """Decodes answers against one route table. Create one for each request; it is cheap.

    `availability` is queried at every decision. `admission`, `quarantine`, `meter` and `recorder` are shared
    by all decoders of a router.
    """

    def __init__(
        self,
        table: RouteTable,
        models: Models,
        availability: ModelAvailability,
        *,
        admission: Admission | None = None,
        quarantine: Quarantine | None = None,
        meter: Meter | None = None,
        recorder: AnswerRecorder | None = None,
        retry_pause_s: float = 0.05,
    ) -> None:
        self._table = table
        self._availability = availability
        self._quarantine = quarantine or Quarantine()
        admission = admission or Admission(availability.num_slots, availability.max_slots)
        self._requests = RequestBuilder(table, availability)
        self._caller = ModelCaller(table, models, availability, admission, self._quarantine)
        self._meter = meter or NoMeter()
        self._recorder = recorder or NoRecorder()
        self._retry_pause_s = retry_pause_s

    async def decode(self, generation: GenerationRequest) -> AsyncGenerator[Delta | Done, None]:
        """Write one answer: any number of `Delta`, then one `Done`.

        Raises:
            RequestError: the request cannot be served as it is.
            ServiceError: no model could continue; the text yielded so far stays valid.
        """
        state = self._begin(generation, Transcript(generation.stop))
        try:
            finish = state.limit(generation)
            while finish is None:
                last = ModelChunk()
                try:
                    # 1. Call the active model and pass on its text, up to a stop string.
                    async with aclosing(self._call(generation, state)) as chunks:
                        async for last in chunks:
                            state.count(last)
                            if last.num_prompt_tokens and state.writer == META:
                                state.trail.prefilled(last.num_prompt_tokens, self._table.narrow_windows)
                            deltas = state.transcript.add(last)
                            if generation.progress is not None:
                                state.report(generation.progress)
                            for delta in deltas:
                                state.timing.text_shown()
                                yield delta
                            if state.transcript.stopped:
                                break
                except RouterError as error:
                    # 2a. It failed: choose a model to go on with. After the last token, that is not needed.
                    finish = state.limit(generation) or await self._recover(generation, state, error)
                else:
                    # 2b. It finished: end the answer or choose the next model.
                    finish = self._next_step(generation, state, last) or state.limit(generation)
            # 3. Show the text that was held back, and end.
            for delta in state.transcript.close():
                yield delta
            yield state.done(finish)
        finally:
            state.timing.ended()
            self._meter.ended(state.timing)
            self._recorder.ended(generation, state, self._table)
            add_answer(generation, state, self._table)

    async def distribution(self, generation: GenerationRequest) -> ModelChunk:
        """Ask the meta where the conversation would go, and write nothing.

        Returns the chunk with the distribution over the experts.

        Raises:
            RouterError: as `decode`; the meta is called again while that may help.
        """
        state = self._begin(generation, Transcript())
        try:
            while True:
                try:
                    async with aclosing(self._call(generation, state, probe=True)) as chunks:
                        async for chunk in chunks:
                            if chunk.distribution is not None:
                                state.finish = chunk.finish
                                return chunk
                    raise ModelFailed("the meta ended a probe without a distribution")
                except RouterError as error:
                    await self._recover(generation, state, error)
        finally:
            add_answer(generation, state, self._table)

    def _begin(self, generation: GenerationRequest, transcript: Transcript) -> GenerationState:
        table, target = self._table, generation.target
        blocked = self._quarantine.blocked(chain((table.meta.app,), table.expert_apps), generation.prompt)
        if table.app(target.writer) in blocked:
            raise poison_error(target.writer)
        masked = {name for name in table.experts if table.app(name) in blocked} if blocked else set()
        admission = generation.admission or admission_context(table)
        deadline_s = now_s() + table.deadlines.total_s
        transcript.begin(target.writer)
        trace = CURRENT_TRACE.get()
        return GenerationState(target.writer, transcript, deadline_s, admission, masked=masked, trace=trace)

    def _call(
        self, generation: GenerationRequest, state: GenerationState, *, probe: bool = False
    ) -> AsyncGenerator[ModelChunk, None]:
        return self._caller.stream(generation, state, lambda: self._requests.build(generation, state, probe))

    def _next_step(
        self, generation: GenerationRequest, state: GenerationState, last: ModelChunk
    ) -> Finish | None:
        """Choose the next model; returns the finish reason instead if the answer is complete."""
        if state.transcript.stopped:
            return Finish.STOP
        if last.finish is Finish.EXPERT:
            assert last.expert is not None, "ModelCaller checks that the expert is allowed"
            state.trail.handed_over(last.expert, last.probability)
            if self._is_left_to_meta(last.expert):
                self._availability.wake(last.expert)
                state.masked.add(last.expert)
                state.trail.redecided("asleep")
                return None
            state.num_handoffs += 1
            state.hand_over_to(last.expert, last.probability)
            return None
        if state.transcript.has_tool_calls or last.stop_token is not None:  # it is the client's turn
            return last.finish
        if last.finish is not Finish.STOP or state.writer == META or self._table.after_expert == "finish":
            return last.finish
        if not generation.target.routed:
            return Finish.STOP
        state.hand_over_to(META)
        return None

    def _is_left_to_meta(self, expert: str) -> bool:
        is_asleep = self._availability.state(expert) in (ModelState.ASLEEP, ModelState.WAKING)
        return is_asleep and self._table.entry(expert).cold_start == "meta"

    async def _recover(
        self, generation: GenerationRequest, state: GenerationState, error: RouterError
    ) -> Finish | None:
        """Choose the model that goes on after a failure; raises the error if there is none.

        A full context window is not an error once there is text: the answer is as long as it can be.
        """
        failed, is_expert = state.writer, state.writer != META
        routed = generation.target.routed
        error = await self._counted(generation, state, error)
        may_retry = self._may_retry(state, is_replaceable=is_expert and routed)
        recovery = after_failure(error, is_expert=is_expert, routed=routed, may_retry=may_retry)
        if recovery is Recovery.FAIL:
            if isinstance(error, ContextLengthExceeded) and state.transcript.text:
                return Finish.LENGTH
            raise error
        if generation.has_form and state.transcript.has_lost_form(recovery is Recovery.REDECIDE):
            raise error
        if recovery is Recovery.REDECIDE:
            state.masked.add(failed)
            state.trail.redecided(error.code or error.type)
            state.num_handoffs -= 1  # the failed hand-over leaves its hop to the next best expert
            state.hand_over_to(META)
            return None
        # Back off, with jitter: many answers may have lost the same replica at the same time.
        pause_s = self._retry_pause_s * 2 ** (state.failures[failed] - 1)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        return None

    async def _counted(
        self, generation: GenerationRequest, state: GenerationState, error: RouterError
    ) -> RouterError:
        """Count a failure of the writer; returns the error, or PoisonRequest if the prompt is the cause."""
        if isinstance(error, ModelStalled):
            self._availability.stalled(state.writer, generation.request_id)
        num_answered = self._availability.num_answered(state.writer)
        state.failed(error, num_answered)
        if len(state.deaths[state.writer]) < POISON_DEATHS:
            return error
        is_answering = num_answered > state.num_answered_before[state.writer]
        if not is_answering and not await self._availability.answers(state.writer):
            return error  # the model is to blame, because it answers nothing else either
        self._quarantine.add(self._table.app(state.writer), generation.prompt)
        return poison_error(state.writer)

    def _may_retry(self, state: GenerationState, *, is_replaceable: bool) -> bool:
        if state.failures[state.writer] > self._table.retries or state.num_failures > self._table.max_resumes:
            return False
        # Do not wait for a replica to start if the meta can go on at once. A model that scales to zero is
        # never UNAVAILABLE but ASLEEP or WAKING.
        is_replaced = is_replaceable and self._table.entry(state.writer).on_unavailable == "meta"
        without_replica = (ModelState.UNAVAILABLE, ModelState.ASLEEP, ModelState.WAKING)
        return not (is_replaced and self._availability.state(state.writer) in without_replica)
