"""One request running in the default engine: its outputs as chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from transformers.generation.continuous_batching.requests import GenerationOutput

from experts.engine.chunk import EngineChunk, FinishReason, TokenLogprobs
from experts.engine.detokenizer import IncrementalDetokenizer
from experts.engine.encoding.encoded_request import EncodedRequest
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.parsing.part_stream import PartStream
from experts.engine.routing_report import RoutingReport, report
from experts.engine.sampling.routing import Handover, RequestState
from experts.engine.sampling.rules import stop_token


@dataclass(slots=True)
class RunningRequest:
    """It ends after `max_tokens`, or at one of `end_ids`; `received_s` is `time.perf_counter()` when the
    engine got it. `found` are the tokens of the prompt that its writer has not written itself."""

    state: RequestState
    encoded: EncodedRequest
    max_tokens: int
    tokenizer: ModelTokenizer
    received_s: float
    found: Sequence[int]
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    end_ids: frozenset[int] = field(init=False)
    _detokenizer: IncrementalDetokenizer = field(init=False)
    _parts: PartStream | None = field(init=False)
    _num_given: int = 0  # tokens in earlier chunks
    _num_read: int | None = None  # tokens of the prompt that the present writer has read, not told yet
    _is_first: bool = True
    _has_handed_over: bool = False

    def __post_init__(self) -> None:
        self.end_ids = self.tokenizer.end_ids(self.state.request)
        self._detokenizer = IncrementalDetokenizer(self.encoded.decoder, self.encoded.prompt)
        self._parts, self._num_read = self.encoded.parts, len(self.encoded.prompt)

    def to_chunks(self, output: GenerationOutput) -> Iterator[EngineChunk]:
        """What `output`, which has all tokens so far and has not failed, adds."""
        handover, tokens = self.state.handover, output.generated_tokens
        if handover is not None and not self._has_handed_over and len(tokens) >= handover.num_steps:
            self._has_handed_over = True
            written = tokens[: handover.num_steps]
            yield self._chunk(output, written, None, self.state.expert)
            self._begin_expert(written, handover)
            if len(tokens) == len(written):
                return
        finish = self._finish(output)
        is_ended = finish in (FinishReason.STOP, FinishReason.EXPERT)
        expert = self.state.expert if finish is FinishReason.EXPERT else None
        yield self._chunk(output, tokens[: -1 if is_ended else None], finish, expert)

    def _chunk(
        self, output: GenerationOutput, tokens: list[int], finish: FinishReason | None, expert: str | None
    ) -> EngineChunk:
        """`tokens`: those of the answer so far, up to the end of this writer if there is a `finish` or an
        `expert`."""
        state, request = self.state, self.state.request
        is_last = finish is not None or expert is not None
        text, ids = self._detokenizer.add([] if request.probe else tokens, last=is_last)
        is_stop = finish is FinishReason.STOP
        num_steps = len(tokens) + (is_stop or expert is not None)  # with the one that gave no token of text
        chunk = EngineChunk(
            text=text,
            token_ids=ids,
            logprobs=self._logprobs(len(ids)) if state.logprobs else (),
            finish=finish,
            stop_token=stop_token(request, output.generated_tokens[-1]) if is_stop else None,
            expert=expert,
            probability=state.probability if expert is not None else None,
            distribution=state.distribution or {} if request.probe else None,
            routing=self._routing(num_steps, expert) if request.is_routed else None,
        )
        if self._parts is not None:
            chunk = self._parts.add(chunk)
        if self._num_read is not None:
            num_read, self._num_read = self._num_read, None
            chunk = replace(chunk, tokenizer=self.tokenizer.fingerprint, num_prompt_tokens=num_read)
        is_first, self._is_first = self._is_first, False
        return self._with_first_fields(chunk, output) if is_first else chunk

    def _begin_expert(self, written: list[int], handover: Handover) -> None:
        self._num_read = handover.num_read
        self._parts = self.tokenizer.parts_after(self.encoded, written)

    def _finish(self, output: GenerationOutput) -> FinishReason | None:
        if not output.is_finished():
            return None
        if self.state.expert is not None and self.state.handover is None:
            return FinishReason.EXPERT
        is_stopped = output.generated_tokens[-1] in self.end_ids or self.state.request.probe
        return FinishReason.STOP if is_stopped else FinishReason.LENGTH

    def _routing(self, num_steps: int, expert: str | None) -> RoutingReport | None:
        state, candidates = self.state, None
        if expert is not None:
            candidates = state.candidates
        elif self._is_first:
            candidates = state.first_candidates
        return report(candidates, state.shadow_wins, num_steps, position=state.request.position)

    def _logprobs(self, num_new: int) -> tuple[TokenLogprobs, ...]:
        """Of the next tokens; every token is given out once, in order."""
        first, self._num_given = self._num_given, self._num_given + num_new
        new = self.state.logprobs[first : self._num_given]
        return tuple(each.spelled(self.tokenizer.decoder) for each in new)

    def _with_first_fields(self, chunk: EngineChunk, output: GenerationOutput) -> EngineChunk:
        """Add what only a request's first chunk has."""
        now_s = time.perf_counter()  # the clock of the manager's own times
        num_cached = self.state.num_cached_tokens
        chunk = replace(chunk, prompt_logprobs=self.prompt_logprobs, num_cached_tokens=num_cached)
        return chunk.with_times(now_s - self.received_s, now_s - output.lifespan[0])
