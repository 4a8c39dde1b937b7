"""One request running in vLLM: its sampling parameters, and its outputs as chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from vllm import SamplingParams
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.metrics.stats import RequestStateStats

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.detokenizer import IncrementalDetokenizer
from experts.engine.request import EngineRequest
from experts.engine.sampling import MIN_TEMPERATURE
from experts.engine.tokenization import ModelTokenizer
from experts.engine.vllm.decision_store import DecisionStore, RoutingDecision
from experts.engine.vllm.worker import extra_args
from experts.errors import EngineFailed


@dataclass(slots=True)
class RunningRequest:
    """`key` names it in the decision store; `prompt` is its token ids; `received_s` is `time.monotonic()`
    when the engine got it; `ids` are the tokens so far."""

    request: EngineRequest
    key: str
    prompt: list[int]
    max_tokens: int
    tokenizer: ModelTokenizer
    decisions: DecisionStore
    received_s: float
    ids: list[int] = field(default_factory=list)
    _detokenizer: IncrementalDetokenizer = field(init=False)
    _is_first: bool = True

    def __post_init__(self) -> None:
        self._detokenizer = IncrementalDetokenizer(self.tokenizer.decoder, self.prompt)

    @property
    def num_tokens_left(self) -> int:
        """Length of the prompt plus the tokens that may still be generated."""
        return len(self.prompt) + self.max_tokens - len(self.ids)

    def sampling_params(self) -> SamplingParams:
        request = self.request
        # Seeded sampling happens in the worker, which leaves vLLM one id to choose from.
        is_greedy = request.seed is not None or request.temperature < MIN_TEMPERATURE
        return SamplingParams(
            temperature=0.0 if is_greedy else request.temperature,
            top_p=1.0 if is_greedy else request.top_p,
            top_k=0 if is_greedy else request.top_k,
            max_tokens=self.max_tokens,
            stop_token_ids=sorted(self.tokenizer.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=extra_args(request, self.key),
            skip_clone=True,
        )

    def to_chunk(self, output: RequestOutput) -> EngineChunk:
        """What `output` adds. Raises EngineFailed if vLLM gave up the request."""
        completion = output.outputs[0]
        if completion.finish_reason == "abort":
            return EngineChunk(finish=FinishReason.CANCELLED)
        if completion.finish_reason == "error":
            raise EngineFailed(f"{self.tokenizer.name}: vLLM gave up the request; its log says why")
        self.ids += completion.token_ids
        is_last = completion.finish_reason is not None
        is_stopped = is_last and self.ids[-1] in self.tokenizer.stop_ids
        decision = self._decision(is_stopped) if is_last else None
        expert = decision.expert if decision else None
        text, ids = self._new_text(len(self.ids) - is_stopped, is_last)
        is_first, self._is_first = self._is_first, False
        chunk = EngineChunk(
            text=text,
            token_ids=ids,
            tokenizer=self.tokenizer.fingerprint if is_first else None,
            num_prompt_tokens=len(self.prompt) if is_first else None,
            finish=self._finish(is_stopped, expert) if is_last else None,
            expert=expert,
            probability=decision.probability if decision else None,
            distribution=((decision and decision.distribution) or {}) if self.request.probe else None,
        )
        return self._with_times(chunk, output.metrics) if is_first else chunk

    def _decision(self, is_stopped: bool) -> RoutingDecision | None:
        """The decision of the last step. One of an earlier step, which vLLM has undone, does not count."""
        if not self.request.allowed or not (is_stopped or self.request.probe):
            return None
        decision = self.decisions.take(self.key)
        return decision if decision and decision.step == len(self.ids) - 1 else None

    def _new_text(self, num_ids: int, is_last: bool) -> tuple[str, tuple[int, ...]]:
        return self._detokenizer.add([] if self.request.probe else self.ids[:num_ids], last=is_last)

    def _finish(self, is_stopped: bool, expert: str | None) -> FinishReason:
        if expert is not None:
            return FinishReason.EXPERT
        return FinishReason.STOP if is_stopped or self.request.probe else FinishReason.LENGTH

    def _with_times(self, chunk: EngineChunk, stats: RequestStateStats | None) -> EngineChunk:
        now_s = time.monotonic()  # the clock of the scheduler's process too
        scheduled_s = stats.scheduled_ts if stats and stats.scheduled_ts else self.received_s
        return chunk.with_times(now_s - self.received_s, now_s - scheduled_s)
