"""One call under way in vLLM: what it asks for, and what comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from vllm import SamplingParams
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.metrics.stats import RequestStateStats

from experts.engine.base import Call, Chunk, FinishReason
from experts.engine.draws import MIN_TEMPERATURE
from experts.engine.mailbox import Decided, Mailbox
from experts.engine.model_text import ModelText
from experts.engine.text_stream import TextStream
from experts.engine.vllm_worker import extra_args
from experts.errors import EngineFailed


@dataclass(slots=True)
class Answer:
    """`key` names it in the mailbox; `max_tokens`: at most to be written; `called_s` by `time.monotonic`."""

    call: Call
    key: str
    prompt: list[int]
    max_tokens: int
    model: ModelText
    mailbox: Mailbox
    called_s: float
    ids: list[int] = field(default_factory=list)
    _text: TextStream = field(init=False)
    _is_first: bool = True

    def __post_init__(self) -> None:
        self._text = TextStream(self.model.tokenizer, self.prompt)

    @property
    def num_tokens_left(self) -> int:
        """Of the prompt, and what may still be written."""
        return len(self.prompt) + self.max_tokens - len(self.ids)

    def params(self) -> SamplingParams:
        call = self.call
        # A seeded draw is made in the worker, and leaves vLLM one id to choose from.
        greedy = call.seed is not None or call.temperature < MIN_TEMPERATURE
        return SamplingParams(
            temperature=0.0 if greedy else call.temperature,
            top_p=1.0 if greedy else call.top_p,
            top_k=0 if greedy else call.top_k,
            max_tokens=self.max_tokens,
            stop_token_ids=sorted(self.model.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=extra_args(call, self.key),
            skip_clone=True,
        )

    def chunk(self, request: RequestOutput) -> Chunk:
        """What is new. Raises EngineFailed."""
        output = request.outputs[0]
        if output.finish_reason == "abort":
            return Chunk(finish=FinishReason.CANCELLED)
        if output.finish_reason == "error":
            raise EngineFailed(f"{self.model.name}: vLLM gave up the request; its log says why")
        self.ids += output.token_ids
        ends = output.finish_reason is not None
        stopped = ends and self.ids[-1] in self.model.stop_ids
        decided = self._decided(stopped) if ends else None
        expert = decided.expert if decided else None
        text, ids = self._new_text(len(self.ids) - stopped, ends)
        is_first, self._is_first = self._is_first, False
        chunk = Chunk(
            text=text,
            token_ids=ids,
            tokenizer=self.model.tokenizer_fingerprint if is_first else None,
            num_prompt_tokens=len(self.prompt) if is_first else None,
            finish=self._finish(stopped, expert) if ends else None,
            expert=expert,
            probability=decided.probability if decided else None,
            distribution=((decided and decided.distribution) or {}) if self.call.probe else None,
        )
        return self._timed(chunk, request.metrics) if is_first else chunk

    def _timed(self, chunk: Chunk, stats: RequestStateStats | None) -> Chunk:
        now_s = time.monotonic()  # as the scheduler's own times, in its process
        scheduled_s = stats.scheduled_ts if stats and stats.scheduled_ts else self.called_s
        return chunk.timed(now_s - self.called_s, now_s - scheduled_s)

    def _decided(self, stopped: bool) -> Decided | None:
        """At the last step: one of an earlier step, which vLLM took back, does not count."""
        if not self.call.allowed or not (stopped or self.call.probe):
            return None
        decided = self.mailbox.take(self.key)
        return decided if decided and decided.step == len(self.ids) - 1 else None

    def _new_text(self, num_written: int, ends: bool) -> tuple[str, tuple[int, ...]]:
        return self._text.add([] if self.call.probe else self.ids[:num_written], last=ends)

    def _finish(self, stopped: bool, expert: str | None) -> FinishReason:
        if expert is not None:
            return FinishReason.EXPERT
        return FinishReason.STOP if stopped or self.call.probe else FinishReason.LENGTH
