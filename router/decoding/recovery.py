"""What an answer does after a failure of the active model: call it again, let the meta decide, or end."""

from __future__ import annotations

import asyncio
import random

from router.admission.quarantine import Quarantine, poison_error
from router.availability import ModelAvailability, ModelState
from router.clock import now_s
from router.decoding.generation import GenerationRequest, GenerationState
from router.decoding.policy import Recovery, after_failure, readers, reads
from router.errors import ContextLengthExceeded, ModelStalled, RouterError
from router.model_port import Finish
from router.table import META, RouteTable

# A prompt is quarantined once this many replicas have died while working on it, with no token in between.
POISON_DEATHS = 2
MAX_RETRY_PAUSE_S = 2.0
MAX_DOUBLINGS = 16  # of the pause: a float holds no power of 1,024


class FailureRecovery:
    """Recovers the answers of one route table from failures of models.

    `retry_pause_s`: the pause before the first repeated call; it doubles with each further one, up to
    `MAX_RETRY_PAUSE_S`.
    """

    def __init__(
        self,
        table: RouteTable,
        availability: ModelAvailability,
        quarantine: Quarantine,
        retry_pause_s: float,
    ) -> None:
        self._table = table
        self._availability = availability
        self._quarantine = quarantine
        self._retry_pause_s = retry_pause_s

    async def recover(
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
            if not self._may_redecide(generation, state):
                raise error
            state.trail.redecided(error.code or error.type)
            # The failed hand-over leaves its hop to the next best expert. A tool's result cost none.
            state.num_handoffs = max(0, state.num_handoffs - 1)
            state.hand_over_to(META)
            return None
        # Back off, with jitter: many answers may have lost the same replica at the same time.
        num_doublings = min(state.failures[failed] - 1, MAX_DOUBLINGS)
        pause_s = self._retry_pause_s * 2**num_doublings * random.uniform(0.5, 1.5)
        await asyncio.sleep(max(0.0, min(pause_s, MAX_RETRY_PAUSE_S, state.deadline_s - now_s())))
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

    def _may_redecide(self, generation: GenerationRequest, state: GenerationState) -> bool:
        """Whether the meta can read the prompt, or another expert is left that can."""
        modalities = generation.prompt.modalities
        others = readers(self._table, generation.routing, modalities)
        return reads(self._table.meta, modalities) or not state.masked.issuperset(others)

    def _may_retry(self, state: GenerationState, *, is_replaceable: bool) -> bool:
        if state.failures[state.writer] > self._table.retries or state.num_failures > self._table.max_resumes:
            return False
        # Do not wait for a replica to start if the meta can go on at once. A model that scales to zero is
        # never UNAVAILABLE but ASLEEP or WAKING.
        is_replaced = is_replaceable and self._table.entry(state.writer).on_unavailable == "meta"
        without_replica = (ModelState.UNAVAILABLE, ModelState.ASLEEP, ModelState.WAKING)
        return not (is_replaced and self._availability.state(state.writer) in without_replica)
