"""One answer in the trace of its request, made from what was measured anyway, once the answer has ended.

Attributes have the names of OpenTelemetry's conventions for generative AI, or begin with `etr.`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from router.clock import now_s
from router.decoding.generation import GenerationRequest, GenerationState
from router.decoding.timing import CallTiming
from router.prompt import Prompt
from router.table import RouteTable
from router.tracing import Attribute, RequestTrace, SpanKind, TraceSpan, new_span_id, unix_offset_s

PROVIDER = "expert-token-routing"
MAX_TEXT_CHARS = 16_384  # of one message or answer; the rest is left out

# The phases of a call that have spans of their own, with the spans' names. The others lie between them.
_SPANS = {
    "queue": "admission",
    "engine_queue": "engine queue",
    "prefill": "prefill",
    "decode": "decode",
    "decision": "decision",
}


def add_answer(generation: GenerationRequest, state: GenerationState, table: RouteTable) -> None:
    """Add the calls of an answer to its request's trace, and to the request's own attributes."""
    trace = state.trace
    if trace is None or not trace.is_recorded:
        return
    operation = "chat" if generation.prompt.messages is not None else "text_completion"
    offset_s = unix_offset_s(now_s())
    for call in state.timing.calls:
        trace.spans += _call_spans(trace, call, operation, table, offset_s)
    _describe(trace, generation, state, operation, table)
    if trace.includes_text:
        _add_text(trace.attributes, generation.prompt, state)


def _describe(
    trace: RequestTrace,
    generation: GenerationRequest,
    state: GenerationState,
    operation: str,
    table: RouteTable,
) -> None:
    """What the client's request was, and what became of it. The choices of a request add up."""
    attributes, sampling = trace.attributes, generation.sampling
    attributes |= {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "etr.table_version": table.table_version,
        "etr.num_handoffs": _sum(attributes, "etr.num_handoffs", state.num_handoffs),
    }
    if generation.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = generation.max_tokens
    for name, num_tokens in (
        ("input", state.num_prompt_tokens),
        ("output", state.num_tokens),
    ):
        key = f"gen_ai.usage.{name}_tokens"
        attributes[key] = _sum(attributes, key, num_tokens)
    if state.finish is None:  # it failed, or its client left
        trace.error = state.timing.calls[-1].error if state.timing.calls else None
        attributes["etr.is_complete"] = False
    else:
        attributes.setdefault("etr.is_complete", True)
        _append(attributes, "gen_ai.response.finish_reasons", state.finish.value)
    for writer in state.usage:
        _append(attributes, "etr.models", writer)


def _call_spans(
    trace: RequestTrace, call: CallTiming, operation: str, table: RouteTable, offset_s: float
) -> Iterator[TraceSpan]:
    context = trace.context.child(call.span_id)
    began_s, ended_s = call.began_s + offset_s, call.ended_s + offset_s
    yield TraceSpan(
        f"{operation} {call.model}",
        SpanKind.CLIENT,
        context,
        trace.context.span_id,
        began_s,
        ended_s,
        _call_attributes(call, operation, table),
        call.error,
    )
    for phase, time_s in call.phases():
        if phase == "decode":  # passing a chunk on and waiting for the next one take turns
            time_s += call.relay_s
        elif phase == "relay":
            continue
        if time_s and phase in _SPANS:
            yield TraceSpan(
                _SPANS[phase],
                SpanKind.INTERNAL,
                replace(context, span_id=new_span_id()),
                call.span_id,
                began_s,
                began_s + time_s,
                _decision(call) if phase == "decision" else {},
            )
        began_s += time_s


def _call_attributes(call: CallTiming, operation: str, table: RouteTable) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": call.model,
        "gen_ai.response.model": call.model,
        "gen_ai.usage.input_tokens": call.num_prompt_tokens,
        "gen_ai.usage.output_tokens": call.num_tokens,
        "server.address": table.app(call.model),
        **{f"etr.{phase}_ms": round(1000 * time_s, 3) for phase, time_s in call.phases()},
        **_decision(call),
    }
    if call.last is not None and call.last.finish is not None:
        attributes["gen_ai.response.finish_reasons"] = [call.last.finish.value]
    return attributes


def _decision(call: CallTiming) -> dict[str, Attribute]:
    """Which expert the meta has handed over to, if it has."""
    last = call.last
    if last is None or last.expert is None:
        return {}
    found: dict[str, Attribute] = {"etr.expert": last.expert}
    return found if last.probability is None else {**found, "etr.probability": last.probability}


def _add_text(attributes: dict[str, Attribute], prompt: Prompt, state: GenerationState) -> None:
    """What was asked and answered, in the form that the conventions have for it."""
    messages = [("user", prompt.text or "")]
    if prompt.messages is not None:
        messages = [(message.role, message.content) for message in prompt.messages]
    attributes["gen_ai.input.messages"] = _to_json([_message(role, text) for role, text in messages])
    answers = json.loads(str(attributes.get("gen_ai.output.messages", "[]")))
    finish = "error" if state.finish is None else state.finish.value
    answers.append(_message("assistant", state.transcript.text) | {"finish_reason": finish})
    attributes["gen_ai.output.messages"] = _to_json(answers)


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text[:MAX_TEXT_CHARS]}]}


def _to_json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=True, separators=(",", ":"))


def _sum(attributes: dict[str, Attribute], key: str, more: int) -> int:
    before = attributes.get(key, 0)
    assert isinstance(before, int)
    return before + more


def _append(attributes: dict[str, Attribute], key: str, text: str) -> None:
    before = attributes.get(key, [])
    assert isinstance(before, list)
    attributes[key] = [*before, text]
