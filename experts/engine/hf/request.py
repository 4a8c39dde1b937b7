"""One request running in the default engine: its outputs as chunks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

from transformers.generation.continuous_batching.requests import GenerationOutput

from experts.engine.chunk import EngineChunk, FinishReason, TokenLogprobs
from experts.engine.detokenizer import IncrementalDetokenizer
from experts.engine.encoding.encoded_request import EncodedRequest
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.routing_report import RoutingReport, report
from experts.engine.sampling.routing import RequestState
from experts.engine.sampling.rules import stop_token


@dataclass(slots=True)
class RunningRequest:
    """It ends after `max_tokens`, or at one of `end_ids`; `received_s` is `time.perf_counter()` when the
    engine got it."""

    state: RequestState
    encoded: EncodedRequest
    max_tokens: int
    tokenizer: ModelTokenizer
    received_s: float
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    end_ids: frozenset[int] = field(init=False)
    _detokenizer: IncrementalDetokenizer = field(init=False)
    _num_given: int = 0  # tokens in earlier chunks
    _is_first: bool = True

    def __post_init__(self) -> None:
        self.end_ids = self.tokenizer.end_ids(self.state.request)
        self._detokenizer = IncrementalDetokenizer(self.encoded.decoder, self.encoded.prompt)

    def to_chunk(self, output: GenerationOutput) -> EngineChunk:
        """What `output`, which has all tokens so far and has not failed, adds."""
        state, request = self.state, self.state.request
        finish = self._finish(output)
        is_ended = finish in (FinishReason.STOP, FinishReason.EXPERT)
        tokens = output.generated_tokens[: -1 if is_ended else None]
        text, ids = self._detokenizer.add([] if request.probe else tokens, last=finish is not None)
        chunk = EngineChunk(
            text=text,
            token_ids=ids,
            logprobs=self._logprobs(len(ids)) if state.logprobs else (),
            finish=finish,
            stop_token=stop_token(request, output.generated_tokens[-1])
            if finish is FinishReason.STOP
            else None,
            expert=state.expert if finish is FinishReason.EXPERT else None,
            probability=state.probability if finish is FinishReason.EXPERT else None,
            distribution=state.distribution or {} if request.probe else None,
            routing=self._routing(output, finish) if request.is_routed else None,
        )
        if self.encoded.parts is not None:
            chunk = self.encoded.parts.add(chunk)
        is_first, self._is_first = self._is_first, False
        return self._with_first_fields(chunk, output) if is_first else chunk

    def _finish(self, output: GenerationOutput) -> FinishReason | None:
        if not output.is_finished():
            return None
        if self.state.expert is not None:
            return FinishReason.EXPERT
        is_stopped = output.generated_tokens[-1] in self.end_ids or self.state.request.probe
        return FinishReason.STOP if is_stopped else FinishReason.LENGTH

    def _routing(self, output: GenerationOutput, finish: FinishReason | None) -> RoutingReport | None:
        state, candidates = self.state, None
        if finish is FinishReason.EXPERT:
            candidates = state.candidates
        elif self._is_first:
            candidates = state.first_candidates
        return report(
            candidates, state.shadow_wins, len(output.generated_tokens), position=state.request.position
        )

    def _logprobs(self, num_new: int) -> tuple[TokenLogprobs, ...]:
        """Of the next tokens; every token is given out once, in order."""
        first, self._num_given = self._num_given, self._num_given + num_new
        new = self.state.logprobs[first : self._num_given]
        return tuple(each.spelled(self.tokenizer.decoder) for each in new)

    def _with_first_fields(self, chunk: EngineChunk, output: GenerationOutput) -> EngineChunk:
        """Add what only a request's first chunk has."""
        now_s = time.perf_counter()  # the clock of the manager's own times
        chunk = replace(
            chunk,
            tokenizer=self.tokenizer.fingerprint,
            num_prompt_tokens=len(self.encoded.prompt),
            prompt_logprobs=self.prompt_logprobs,
        )
        return chunk.with_times(now_s - self.received_s, now_s - output.lifespan[0])


async def latest(outputs: asyncio.Queue[GenerationOutput]) -> GenerationOutput:
    """Wait for an output and return the newest, because each one has all tokens so far."""
    output = await outputs.get()
    while not outputs.empty():
        output = outputs.get_nowait()
    return output
