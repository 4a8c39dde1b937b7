"""The next call of an answer: from what was asked and what is written so far to the request of one model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from router.availability import ModelAvailability
from router.decoding.generation import GenerationRequest, GenerationState
from router.decoding.policy import Selection, reads, select_experts
from router.model_port import ModelRequest
from router.sampling import Sampling
from router.table import META, RouteTable

Names = tuple[str, ...]


class RequestBuilder:
    """Builds the requests of one route table."""

    def __init__(self, table: RouteTable, availability: ModelAvailability) -> None:
        self._table = table
        self._availability = availability

    def build(
        self, generation: GenerationRequest, state: GenerationState, *, probe: bool, others: Names = ()
    ) -> ModelRequest:
        """What the writer is asked now; with `probe`, only where the conversation would go.

        `others` are rows of the meta's head besides those of experts, which a probe may choose.
        """
        written, resumed = state.transcript.split()
        num_written, max_tokens = state.transcript.num_tokens, generation.max_tokens
        allowed, shadows = self._begin_decision(generation, state) if state.writer == META else ((), ())
        entry, prompt = self._table.entry(state.writer), generation.prompt
        return ModelRequest(
            request_id=generation.request_id,
            prompt=prompt if reads(entry, prompt.modalities) else prompt.without_media(),
            sampling=_after(num_written, generation.sampling),
            max_tokens=None if max_tokens is None else max_tokens - num_written,
            written=written,
            resumed=resumed,
            position=num_written,
            allowed=(*allowed, *others),
            shadows=shadows,
            reports_start=bool(allowed) and self._table.decision_log is not None,
            windows=self._table.narrow_windows if allowed else {},
            bias=self._bias(generation, allowed, shadows),
            in_place=self._table.in_place if allowed and not probe else {},
            only_at_start=self._decides_once(generation),
            probe=probe,
            task=generation.task,
            adapter=entry.adapter,
            cache_salt=generation.cache_salt,
            trace_headers=state.trace_headers(),
            # Well below the gap deadline, so that text held back does not look like a stalled model.
            message_gap_s=min(generation.message_gap_s, self._table.gap_s(state.writer) / 4),
        )

    def select(
        self, generation: GenerationRequest, state: GenerationState, without: Iterable[str] = ()
    ) -> Selection:
        """The experts that may take over now, other than those of `without`."""
        return select_experts(
            self._table,
            generation.routing,
            generation.prompt.modalities,
            state_of=self._availability.state,
            masked={*state.masked, *without},
            num_handoffs=state.num_handoffs,
        )

    def _begin_decision(self, generation: GenerationRequest, state: GenerationState) -> tuple[Names, Names]:
        """The experts that the meta may hand over to, and the shadows that it scores beside them."""
        is_decided = self._decides_once(generation) and state.has_begun
        if not generation.target.routed or (is_decided and not self._may_go_on(generation, state)):
            return (), ()
        selection = self.select(generation, state)
        # A shadow cannot be named, so it would not be an expert of a request that names its experts.
        may_grow = generation.routing.experts is None and state.num_handoffs < self._table.max_handoffs
        shadows = self._table.shadows if may_grow else ()
        state.trail.begin(state.num_tokens, selection, shadows)
        return selection.allowed, shadows

    def _decides_once(self, generation: GenerationRequest) -> bool:
        """Whether experts may take over only before the first token. Half a tool call, or the state of a
        grammar, cannot change its author."""
        return self._table.when == "start" or generation.has_form

    def _may_go_on(self, generation: GenerationRequest, state: GenerationState) -> bool:
        """Whether, with tools, another expert may take over from one that has ended its turn: no call is
        half-written there. A grammar is of the whole answer."""
        options = generation.sampling.options
        has_grammar = options is not None and options.grammar is not None
        return self._table.when == "anywhere" and not has_grammar and state.transcript.is_returned

    def _bias(
        self, generation: GenerationRequest, allowed: tuple[str, ...], shadows: tuple[str, ...]
    ) -> dict[str, float]:
        call_bias = self._table.call_bias + generation.routing.call_bias
        if not (call_bias or generation.routing.bias):
            return {}
        biases = {name: call_bias + generation.routing.bias.get(name, 0.0) for name in (*allowed, *shadows)}
        return {name: bias for name, bias in biases.items() if bias}


def _after(num_written: int, sampling: Sampling) -> Sampling:
    """What is left to ask of sampling after `num_written` tokens of the answer."""
    options = sampling.options
    if options is None or not (options.min_tokens and num_written):
        return sampling
    options = replace(options, min_tokens=max(0, options.min_tokens - num_written))
    return replace(sampling, options=options)
