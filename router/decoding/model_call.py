"""One call of a model: wait until it is available, wait for a slot, stream it; each with its own deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext

from router.admission.controller import Admission
from router.admission.quarantine import Quarantine, SuspectSlot, poison_error
from router.availability import ModelAvailability, ModelState
from router.clock import now_s
from router.decoding.generation import GenerationRequest, GenerationState
from router.errors import DeadlineExceeded, ModelFailed, ModelStalled, ModelUnavailable, WakeFailed
from router.model_port import Finish, ModelChunk, ModelRequest, Models
from router.table import RouteTable


class ModelCaller:
    """Calls the models of one route table."""

    def __init__(
        self,
        table: RouteTable,
        models: Models,
        availability: ModelAvailability,
        admission: Admission,
        quarantine: Quarantine,
    ) -> None:
        self._table = table
        self._models = models
        self._availability = availability
        self._admission = admission
        self._quarantine = quarantine

    async def stream(
        self, generation: GenerationRequest, state: GenerationState, make_request: Callable[[], ModelRequest]
    ) -> AsyncGenerator[ModelChunk, None]:
        """Stream a call of the writer up to its finish reason. `make_request` is called once it has a slot.
        The writer may change within the call, by a chunk that hands over in place.

        Raises every ServiceError but TableStale (ModelFailed also if the model hands over to an expert that
        was not allowed, Overloaded only before the first output), and PoisonRequest if the prompt was
        quarantined meanwhile.
        """
        entry = self._table.entry(state.writer)
        with state.timing.call(state.writer) as timing:
            await self._wait_until_ready(state)
            async with self._slot(generation, state) as suspect_slot:
                timing.admitted()
                request = make_request()
                state.writer_usage.num_calls += 1
                limit_s = entry.first_token_s or self._table.deadlines.first_token_s
                async with aclosing(self._models[entry.app].stream(request)) as chunks:
                    finish = None
                    while finish is None:
                        chunk = await _next_chunk(chunks, limit_s, state)
                        timing.received(chunk)
                        if chunk.num_tokens:
                            limit_s = self._table.gap_s(state.writer)
                            suspect_slot.release()
                        finish = chunk.finish
                        if chunk.hands_over_in_place:
                            _check_expert(chunk, request.in_place, state.writer)
                        yield chunk
                        timing.relayed()
                        if chunk.hands_over_in_place:
                            timing = state.timing.taken_over(state.writer)
                    _check_finish(chunk, request, state.writer)

    @asynccontextmanager
    async def _slot(
        self, generation: GenerationRequest, state: GenerationState
    ) -> AsyncIterator[SuspectSlot]:
        """Hold a slot of the writer while the block runs, and the suspect slot if the prompt is suspect."""
        writer, app, left_s = state.writer, self._table.app(state.writer), _left_s(state)
        async with self._admission.slot(
            writer, app, state.admission, has_output=state.has_output, left_s=left_s
        ):
            state.admitted_models.add(writer)
            is_suspect = bool(state.deaths[writer])
            async with self._quarantine.suspect_slot(app, is_suspect=is_suspect) as suspect_slot:
                state.is_only_suspect = suspect_slot.is_only_suspect
                if self._quarantine.blocked([app], generation.prompt):  # since this call began to wait
                    raise poison_error(writer)
                yield suspect_slot

    async def _wait_until_ready(self, state: GenerationState) -> None:
        """Wait for a writer that is starting or has lost its replicas. A start has a deadline of its own, and
        extends the answer's."""
        scales_to_zero = self._table.entry(state.writer).scales_to_zero
        writer_state = self._availability.state(state.writer)
        may_wait = scales_to_zero or writer_state in (ModelState.UNAVAILABLE, ModelState.FAILED)
        if writer_state is ModelState.READY or not may_wait:
            return
        began_s = now_s()
        try:
            async with self._counted_as_waiting(state), asyncio.timeout(self._start_limit_s(state)):
                await self._availability.wait_until_ready(state.writer)
        except TimeoutError as error:
            if scales_to_zero:
                raise WakeFailed(
                    f"{state.writer} did not start in time (routing.deadlines.wake_s); try again, or see "
                    "`etr status`"
                ) from error
            _left_s(state)
            raise ModelUnavailable(
                f"no replica of {state.writer} came back in time; try again, or see `etr status`"
            ) from error
        finally:
            if scales_to_zero:
                state.waking_s += now_s() - began_s
                state.deadline_s += now_s() - began_s

    def _start_limit_s(self, state: GenerationState) -> float:
        entry, deadlines = self._table.entry(state.writer), self._table.deadlines
        return_s = entry.first_token_s or deadlines.first_token_s
        if not entry.scales_to_zero:
            return min(return_s, state.deadline_s - now_s())
        wake_s = max(0.0, deadlines.wake_s - state.waking_s)  # all starts of an answer share `wake_s`
        # A model that failed during this answer is waited for no longer than one that does not scale to zero.
        return min(return_s, wake_s) if state.failures[state.writer] else wake_s

    def _counted_as_waiting(self, state: GenerationState) -> AbstractAsyncContextManager[None]:
        if state.has_output:
            return nullcontext()
        app = self._table.app(state.writer)
        return self._admission.waiting_for_start(state.writer, app, state.admission)


async def _next_chunk(
    chunks: AsyncGenerator[ModelChunk, None], limit_s: float, state: GenerationState
) -> ModelChunk:
    """The next chunk, within `limit_s` and the answer's deadline; the error says which of them was missed."""
    left_s = state.deadline_s - now_s()
    try:
        async with asyncio.timeout(min(limit_s, left_s)):
            return await anext(chunks)
    except StopAsyncIteration as error:
        raise ModelUnavailable(f"{state.writer} ended its stream without a finish reason") from error
    except TimeoutError as error:
        if left_s < limit_s:
            raise _deadline_exceeded(state) from error
        raise ModelStalled(f"{state.writer} produced nothing for {limit_s:g} s") from error


def _check_finish(last: ModelChunk, request: ModelRequest, writer: str) -> None:
    if last.finish is Finish.CANCELLED:
        raise ModelUnavailable(f"the replica of {writer} gave up the request")
    if last.finish is Finish.EXPERT:
        # What the model was sent; the allowed set may have changed since.
        _check_expert(last, request.allowed, writer)


def _check_expert(chunk: ModelChunk, allowed: Container[str | None], writer: str) -> None:
    if chunk.expert not in allowed:
        raise ModelFailed(f"{writer} handed over to '{chunk.expert}', which was not in the allowed set")


def _left_s(state: GenerationState) -> float:
    """The time until the answer's deadline. Raises DeadlineExceeded if it has passed."""
    left_s = state.deadline_s - now_s()
    if left_s <= 0:
        raise _deadline_exceeded(state)
    return left_s


def _deadline_exceeded(state: GenerationState) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the answer was not complete within routing.deadlines.total_s while {state.writer} was writing; ask "
        "for fewer tokens, or raise that limit"
    )
