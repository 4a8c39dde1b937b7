"""The decode loop: the state machine of one answer, from the meta through the experts to the end.

    META --expert token--> EXPERT --end of turn--> done           (after_expert: finish)
     ^                        |
     +------------------------+                                   (after_expert: return, max_handoffs)

With `after_expert: chain`, `router/decoding/chain.py` writes several such answers.
If a model fails, it is called again and resumes from the text received so far. If that is not possible, the
meta decides the same position again with that expert masked. It also does so if it has chosen an expert that
is asleep and not waited for (cold_start: meta). A meta that cannot read a picture only chooses who answers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from itertools import chain

from router.admission.controller import Admission
from router.admission.quarantine import Quarantine, poison_error
from router.availability import ModelAvailability
from router.clock import now_s
from router.decoding.answer_spans import add_answer
from router.decoding.chain import Chain, may_chain
from router.decoding.decisions import Distribution, likeliest_expert
from router.decoding.delta import Delta
from router.decoding.generation import Done, GenerationRequest, GenerationState
from router.decoding.model_call import ModelCaller
from router.decoding.policy import admission_context, is_left_to_meta, reads
from router.decoding.recorder import AnswerRecorder, NoRecorder
from router.decoding.recovery import FailureRecovery
from router.decoding.request_builder import RequestBuilder
from router.decoding.timing import Meter, NoMeter
from router.decoding.transcript import Transcript
from router.errors import ModelFailed, RouterError
from router.model_port import Finish, ModelChunk, Models
from router.table import META, RouteTable
from router.tracing import CURRENT_TRACE


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
        self._recovery = FailureRecovery(table, availability, self._quarantine, retry_pause_s)
        admission = admission or Admission(availability.num_slots, availability.max_slots)
        self._requests = RequestBuilder(table, availability)
        self._caller = ModelCaller(table, models, availability, admission, self._quarantine)
        self._meter = meter or NoMeter()
        self._recorder = recorder or NoRecorder()
        self._chain = Chain(table, availability, self._requests, self._write, self._probe)

    async def decode(self, generation: GenerationRequest) -> AsyncGenerator[Delta | Done, None]:
        """Write one answer: any number of `Delta`, then one `Done`.

        Raises RequestError if the request cannot be served as it is, and ServiceError if no model could
        continue; the text yielded so far stays valid.
        """
        state = self._begin(generation, Transcript(generation.stop))
        write = self._chain.write if may_chain(self._table, generation) else self._write
        try:
            async with aclosing(write(generation, state)) as items:
                async for item in items:
                    if not isinstance(item, Done):
                        state.timing.text_shown()
                    yield item
        finally:
            state.timing.ended()
            self._meter.ended(state.timing)
            self._recorder.ended(generation, state, self._table)
            add_answer(generation, state, self._table)

    async def distribution(self, generation: GenerationRequest) -> Distribution:
        """Ask the meta where the conversation would go, and write nothing.

        Returns the chunk with the distribution over the experts, and which experts are not in it.

        Raises:
            RouterError: as `decode`; the meta is called again while that may help.
        """
        state = self._begin(generation, Transcript())
        try:
            chunk = await (self._probe if self._meta_reads(generation) else self._best)(generation, state)
            state.finish = chunk.finish
            return Distribution(chunk, state.trail.masked)
        finally:
            self._recorder.performed(state)
            add_answer(generation, state, self._table)

    async def perform(self, generation: GenerationRequest) -> ModelChunk:
        """Have the addressed model do `generation.task`.

        Returns the chunk with the result.

        Raises:
            RouterError: as `decode`; the model is called again while that may help.
        """
        state = self._begin(generation, Transcript())
        try:
            chunk = await self._only_chunk(generation, state, probe=False)
            state.finish = chunk.finish
            return chunk
        finally:
            self._recorder.performed(state)
            add_answer(generation, state, self._table)

    async def _write(
        self, generation: GenerationRequest, state: GenerationState
    ) -> AsyncGenerator[Delta | Done, None]:
        finish, modalities = state.limit(generation), generation.prompt.modalities
        while finish is None:
            last = ModelChunk()
            try:
                # 1. Call the active model and pass on its text, up to a stop string.
                may_read = reads(self._table.entry(state.writer), modalities)
                turn = self._call(generation, state) if may_read else self._chosen(generation, state)
                async with aclosing(turn) as chunks:
                    async for last in chunks:
                        state.count(last)
                        if last.num_prompt_tokens and state.writer == META:
                            state.trail.prefilled(last.num_prompt_tokens, self._table.narrow_windows)
                        deltas = state.transcript.add(last)
                        if generation.progress is not None:
                            state.report(generation.progress)
                        for delta in deltas:
                            yield delta
                        if state.transcript.stopped:
                            break
                        if last.expert is not None and last.hands_over_in_place:
                            state.hand_over_in_place(last.expert, last.probability)
            except RouterError as error:
                # 2a. It failed: choose a model to go on with. After the last token, that is not needed.
                finish = state.limit(generation) or await self._recovery.recover(generation, state, error)
            else:
                # 2b. It finished: end the answer or choose the next model.
                finish = self._next_step(generation, state, last) or state.limit(generation)
        # 3. Show the text that was held back, and end.
        for delta in state.transcript.close():
            yield delta
        yield state.done(finish)

    async def _chosen(
        self, generation: GenerationRequest, state: GenerationState
    ) -> AsyncGenerator[ModelChunk, None]:
        chunk = await self._best(generation, state)
        yield ModelChunk(finish=chunk.finish, expert=chunk.expert, probability=chunk.probability)

    async def _best(self, generation: GenerationRequest, state: GenerationState) -> ModelChunk:
        """The meta's distribution over the experts that can read the prompt, and the likeliest of them."""
        return likeliest_expert(await self._probe(generation, state))

    def _meta_reads(self, generation: GenerationRequest) -> bool:
        return reads(self._table.meta, generation.prompt.modalities)

    async def _probe(
        self, generation: GenerationRequest, state: GenerationState, others: tuple[str, ...] = ()
    ) -> ModelChunk:
        """The meta's distribution over the experts that are allowed now, and `others`."""
        return await self._only_chunk(generation, state, probe=True, others=others)

    async def _only_chunk(
        self,
        generation: GenerationRequest,
        state: GenerationState,
        *,
        probe: bool,
        others: tuple[str, ...] = (),
    ) -> ModelChunk:
        """The result of a call that writes nothing."""
        while True:
            try:
                async with aclosing(self._call(generation, state, probe=probe, others=others)) as chunks:
                    async for chunk in chunks:
                        state.count(chunk)
                        if chunk.distribution is not None if probe else chunk.finish is Finish.STOP:
                            return chunk
                raise ModelFailed(f"{state.writer} ended a call without its result")
            except RouterError as error:
                if await self._recovery.recover(generation, state, error) is not None:
                    raise  # the answer is as long as it can be

    def _begin(self, generation: GenerationRequest, transcript: Transcript) -> GenerationState:
        table, target = self._table, generation.target
        apps = chain((table.meta.app, table.app(target.writer)), table.expert_apps)
        blocked = self._quarantine.blocked(apps, generation.prompt)
        if table.app(target.writer) in blocked:
            raise poison_error(target.writer)
        masked = {name for name in table.experts if table.app(name) in blocked} if blocked else set()
        admission = generation.admission or admission_context(table)
        deadline_s = now_s() + table.deadlines.total_s
        transcript.begin(target.writer)
        trace = CURRENT_TRACE.get()
        return GenerationState(target.writer, transcript, deadline_s, admission, masked=masked, trace=trace)

    def _call(
        self,
        generation: GenerationRequest,
        state: GenerationState,
        *,
        probe: bool = False,
        others: tuple[str, ...] = (),
    ) -> AsyncGenerator[ModelChunk, None]:
        make_request = partial(self._requests.build, generation, state, probe=probe, others=others)
        return self._caller.stream(generation, state, make_request)

    def _next_step(
        self, generation: GenerationRequest, state: GenerationState, last: ModelChunk
    ) -> Finish | None:
        """Choose the next model; returns the finish reason instead if the answer is complete."""
        if state.transcript.stopped:
            return Finish.STOP
        if last.finish is Finish.EXPERT:
            assert last.expert is not None, "ModelCaller checks that the expert is allowed"
            state.trail.handed_over(last.expert, last.probability)
            if self._meta_reads(generation) and is_left_to_meta(self._table, self._availability, last.expert):
                self._availability.wake(last.expert)
                state.masked.add(last.expert)
                state.trail.redecided("asleep")
                return None
            state.num_handoffs += 1
            state.hand_over_to(last.expert, last.probability)
            return None
        if state.transcript.has_tool_calls or last.stop_token is not None:  # it is the client's turn
            return last.finish
        if last.finish is not Finish.STOP or state.writer == META or self._table.after_expert != "return":
            return last.finish
        if not generation.target.routed or not self._meta_reads(generation):
            return Finish.STOP
        state.hand_over_to(META)
        return None
