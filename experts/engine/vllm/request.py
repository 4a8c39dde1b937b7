"""One request running in vLLM: its sampling parameters, and its outputs as chunks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllm import SamplingParams
from vllm.inputs import MultiModalInput, TokensInput, tokens_input
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.metrics.stats import RequestStateStats

from experts.engine.chunk import EngineChunk, FinishReason, TokenLogprobs
from experts.engine.detokenizer import IncrementalDetokenizer
from experts.engine.encoding.encoded_request import EncodedRequest
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.request import EngineRequest
from experts.engine.routing_report import RoutingReport, report
from experts.engine.sampling.gumbel import MIN_TEMPERATURE
from experts.engine.sampling.logprobs import IdLogprobs
from experts.engine.sampling.rules import TokenRules, stop_token
from experts.engine.vllm.decision_store import DecisionStore, RoutingDecision
from experts.engine.vllm.worker_request import extra_args, is_chosen_by_worker
from experts.errors import EngineFailed


@dataclass(slots=True)
class RunningRequest:
    """`key` names it in the decision store; `rules` are None without sampling options; `received_s` is
    `time.monotonic()` when the engine got it; `ids` are the tokens so far. `lora_request`: its adapter.
    `seen`: the prompt with its pictures, if it has any.

    `num_read`: of an expert that has taken over in place, how many tokens it reads itself. `heir`: the expert
    that takes over from this request in place; the last of `ids` stands for it."""

    encoded: EncodedRequest
    key: str
    max_tokens: int
    rules: TokenRules | None
    tokenizer: ModelTokenizer
    decisions: DecisionStore
    received_s: float
    lora_request: LoRARequest | None = None
    seen: MultiModalInput | None = None
    num_read: int | None = None
    ids: list[int] = field(default_factory=list)
    heir: str | None = None
    _detokenizer: IncrementalDetokenizer = field(init=False)
    _is_first: bool = True
    _end_ids: frozenset[int] = field(init=False)
    _logprobs: list[IdLogprobs] = field(default_factory=list)  # of tokens that are not in a chunk yet
    _decision: RoutingDecision | None = None
    _num_wins: int = 0  # of shadows, in earlier chunks

    def __post_init__(self) -> None:
        self._end_ids = self.tokenizer.end_ids(self.request)
        self._detokenizer = IncrementalDetokenizer(self.encoded.decoder, self.prompt)

    @property
    def request(self) -> EngineRequest:
        return self.encoded.request

    @property
    def prompt(self) -> list[int]:
        return self.encoded.prompt

    @property
    def num_tokens_left(self) -> int:
        """Length of the prompt plus the tokens that may still be generated."""
        return len(self.prompt) + self.max_tokens - len(self.ids)

    def engine_input(self) -> TokensInput | MultiModalInput:
        if self.seen is not None:
            return self.seen
        return tokens_input(self.prompt, cache_salt=self.request.cache_salt)

    def sampling_params(self) -> SamplingParams:
        request = self.request
        is_greedy = is_chosen_by_worker(request) or request.temperature < MIN_TEMPERATURE
        return SamplingParams(
            temperature=0.0 if is_greedy else request.temperature,
            top_p=1.0 if is_greedy else request.top_p,
            top_k=0 if is_greedy else request.top_k,
            max_tokens=self.max_tokens,
            stop_token_ids=sorted(self._end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=extra_args(request, self.key, self.rules, self.encoded.thoughts),
            skip_clone=True,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        options = self.request.sampling
        if options is None:
            return {}
        scores = {"logprobs": options.num_logprobs, "prompt_logprobs": options.num_prompt_logprobs}
        scores |= {"ignore_eos": self.tokenizer.end_id not in self._end_ids}
        if is_chosen_by_worker(self.request):  # which leaves vLLM one id to choose from
            return scores
        return scores | {
            "min_p": options.min_p,
            "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty,
            "repetition_penalty": options.repetition_penalty,
            "logit_bias": dict(options.logit_bias) or None,
            "min_tokens": min(options.min_tokens, self.max_tokens),
            "allowed_token_ids": list(options.allowed_token_ids) if options.allowed_token_ids else None,
        }

    def to_chunk(self, output: RequestOutput) -> EngineChunk:
        """What `output` adds. Raises EngineFailed if vLLM gave up the request."""
        completion = output.outputs[0]
        if completion.finish_reason == "abort":
            return EngineChunk(finish=FinishReason.CANCELLED)
        if completion.finish_reason == "error":
            raise EngineFailed(f"{self.tokenizer.name}: vLLM gave up the request; its log says why")
        self._add_ids(completion)
        decision = self._new_decision(completion.token_ids)
        is_last = completion.finish_reason is not None or decision is not None
        is_stopped = is_last and (self.ids[-1] in self._end_ids or decision is not None)
        expert = decision.expert if decision else None
        text, ids = self._new_text(len(self.ids) - is_stopped, is_last)
        if expert in self.request.in_place and not self.request.probe:
            self.heir = expert
        finish = self._finish(is_stopped, expert) if is_last and self.heir is None else None
        chunk = EngineChunk(
            text=text,
            token_ids=ids,
            logprobs=self._new_logprobs(len(ids)),
            finish=finish,
            stop_token=stop_token(self.request, self.ids[-1]) if finish is FinishReason.STOP else None,
            expert=expert,
            probability=decision.probability if decision else None,
            distribution=((decision and decision.distribution) or {}) if self.request.probe else None,
            routing=self._routing(decision) if self.request.is_routed else None,
        )
        if self.encoded.parts is not None:
            chunk = self.encoded.parts.add(chunk)
        is_first, self._is_first = self._is_first, False
        return self._with_first_fields(chunk, output) if is_first else chunk

    def _add_ids(self, completion: CompletionOutput) -> None:
        self.ids += completion.token_ids
        options = self.request.sampling
        if options and completion.logprobs:
            num = options.num_logprobs or 0
            found = zip(completion.token_ids, completion.logprobs, strict=True)
            self._logprobs += [_id_logprobs(token_id, each, num) for token_id, each in found]

    def _new_decision(self, new_ids: Sequence[int]) -> RoutingDecision | None:
        """The decision at one of the new tokens, which is then the last one. One of a step that vLLM has
        undone does not count."""
        if not self.request.allowed or not (self.request.probe or self.tokenizer.end_id in new_ids):
            return None
        # The worker may be ahead: then the decision is for a later token.
        self._decision = self.decisions.take(self.key) or self._decision
        if self._decision is None or self._decision.step >= len(self.ids):
            return None
        decision, self._decision = self._decision, None
        is_undone = not self.request.probe and self.ids[decision.step] != self.tokenizer.end_id
        if is_undone or decision.step < len(self.ids) - len(new_ids):
            return None
        del self.ids[decision.step + 1 :]  # vLLM goes on if the request ignores the end of a turn
        return decision

    def _routing(self, decision: RoutingDecision | None) -> RoutingReport | None:
        request, candidates = self.request, decision.candidates if decision else None
        if not request.shadows and not (request.reports_start and self._is_first):  # nearly always
            return None if candidates is None else RoutingReport(candidates)
        observed = self.decisions.observed(self.key)
        if self._is_first:
            candidates = candidates or observed.first_candidates
        wins = deque(observed.shadow_wins[self._num_wins :])
        num_new = len(wins)
        found = report(candidates, wins, len(self.ids), position=request.position)
        self._num_wins += num_new - len(wins)
        return found

    def _new_text(self, num_ids: int, is_last: bool) -> tuple[str, tuple[int, ...]]:
        return self._detokenizer.add([] if self.request.probe else self.ids[:num_ids], last=is_last)

    def _new_logprobs(self, num_new: int) -> tuple[TokenLogprobs, ...]:
        new, self._logprobs = self._logprobs[:num_new], self._logprobs[num_new:]
        return tuple(each.spelled(self.tokenizer.decoder) for each in new)

    def _finish(self, is_stopped: bool, expert: str | None) -> FinishReason:
        if expert is not None:
            return FinishReason.EXPERT
        return FinishReason.STOP if is_stopped or self.request.probe else FinishReason.LENGTH

    def _with_first_fields(self, chunk: EngineChunk, output: RequestOutput) -> EngineChunk:
        """Add what only a request's first chunk has."""
        num_read = len(self.prompt) if self.num_read is None else self.num_read
        chunk = replace(chunk, tokenizer=self.tokenizer.fingerprint, num_prompt_tokens=num_read)
        if self.num_read is not None:
            return chunk
        num_cached = output.num_cached_tokens or 0
        chunk = replace(chunk, num_cached_tokens=num_cached, prompt_logprobs=self._prompt_logprobs(output))
        stats: RequestStateStats | None = output.metrics
        now_s = time.monotonic()  # the clock of the scheduler's process too
        scheduled_s = stats.scheduled_ts if stats and stats.scheduled_ts else self.received_s
        return chunk.with_times(now_s - self.received_s, now_s - scheduled_s)

    def _prompt_logprobs(self, output: RequestOutput) -> tuple[TokenLogprobs, ...]:
        options = self.request.sampling
        if not options or options.num_prompt_logprobs is None:
            return ()
        num, decoder = options.num_prompt_logprobs, self.tokenizer.decoder
        found = zip(self.prompt, output.prompt_logprobs, strict=True)
        return tuple(_id_logprobs(token_id, each, num).spelled(decoder) for token_id, each in found)


def _id_logprobs(token_id: int, found: Mapping[int, Logprob] | None, num_top: int) -> IdLogprobs:
    """vLLM gives the token beside its alternatives, and says nothing of a prompt's first one."""
    if found is None:
        return IdLogprobs(token_id, None)
    ordered = sorted(((i, each.logprob) for i, each in found.items()), key=lambda each: -each[1])
    return IdLogprobs(token_id, found[token_id].logprob, tuple(ordered[:num_top]))
