"""Hand-overs in place: for vLLM the expert's part is a request of its own, with the adapter.

Its prompt is that of the meta and what the meta has written. The blocks before the adapter's start are in the
prefix cache, because the meta has computed them a moment ago. So only the last block is computed again, which
may be incomplete, and with it the tokens that the expert reads itself.
"""

from __future__ import annotations

from dataclasses import replace

from experts.engine.adapter_slots import LoadedAdapter
from experts.engine.request import EngineRequest, SamplingOptions
from experts.engine.sampling.rules import TokenRules
from experts.engine.vllm.adapter_rows import start_of
from experts.engine.vllm.adapters import VllmAdapters
from experts.engine.vllm.request import RunningRequest


def expert_request(
    meta: RunningRequest, key: str, adapters: VllmAdapters, adapter: LoadedAdapter
) -> RunningRequest:
    """What is left of the request of the meta, for the expert that has just won."""
    request, written = meta.request, meta.ids[:-1]  # the last id stands for the expert
    prompt = [*meta.prompt, *written]
    is_at_start = not (written or request.written or request.resumed)
    lora_request = adapters.request(adapter, prompt, is_at_start=is_at_start)
    encoded = replace(
        meta.encoded,
        request=_rest(request, meta.encoded.decoder.decode(written), len(written)),
        prompt=prompt,
        parts=meta.tokenizer.parts_after(meta.encoded, written),
    )
    return RunningRequest(
        encoded,
        key,
        meta.max_tokens - len(written),
        meta.rules and _rest_of_rules(meta.rules, written),
        meta.tokenizer,
        meta.decisions,
        meta.received_s,
        lora_request,
        num_read=len(prompt) - start_of(lora_request),
    )


def _rest(request: EngineRequest, text: str, num_written: int) -> EngineRequest:
    options = request.sampling
    return replace(
        request,
        written=request.written + text,
        position=request.position + num_written,
        sampling=options and _rest_of_options(options, num_written),
        allowed=(),
        shadows=(),
        reports_start=False,
        in_place={},
    )


def _rest_of_rules(rules: TokenRules, written: list[int]) -> TokenRules:
    return replace(
        rules,
        options=_rest_of_options(rules.options, len(written)),
        max_tokens=rules.max_tokens - len(written),
        own_ids=(*rules.own_ids, *written),
    )


def _rest_of_options(options: SamplingOptions, num_written: int) -> SamplingOptions:
    return replace(options, min_tokens=max(0, options.min_tokens - num_written), num_prompt_logprobs=None)
