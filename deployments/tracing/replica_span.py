"""The span of one call, inside the replica of a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import time

from deployments.tracing.identity import app_name, replica_name
from experts.engine.chunk import EngineChunk
from experts.engine.request import EngineRequest
from experts.errors import InvalidCall
from router.tracing import CURRENT_TRACE, Attribute, RequestTrace, SpanKind, Tracer, join_trace

OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

Generate = Callable[[EngineRequest], AsyncGenerator[EngineChunk, None]]


def traced_call(
    tracer: Tracer, request: EngineRequest, generate: Generate
) -> AsyncGenerator[EngineChunk, None]:
    """`generate(request)`, recorded if the router records the request."""
    trace = join_trace(request.trace_headers, tracer.settings)
    CURRENT_TRACE.set(trace)
    if trace is None or not trace.is_recorded:
        return generate(request)
    return _recorded(tracer, trace, request, generate)


async def _recorded(
    tracer: Tracer, trace: RequestTrace, request: EngineRequest, generate: Generate
) -> AsyncGenerator[EngineChunk, None]:
    began_s, model = time(), request.adapter or app_name()
    trace.attributes |= {
        "gen_ai.operation.name": "text_completion" if request.messages is None else "chat",
        "gen_ai.request.model": model,
        "etr.replica": replica_name(),
    }
    with _ReplicaSpan(tracer, trace, f"generate {model}".rstrip(), began_s):
        async with aclosing(generate(replace(request, trace_headers=trace.context.headers()))) as chunks:
            async for chunk in chunks:
                _note(trace.attributes, chunk, time() - began_s)
                yield chunk


@dataclass(frozen=True)
class _ReplicaSpan:
    """Records the span of a call when the call ends, with the error that ended it, if one did."""

    tracer: Tracer
    trace: RequestTrace
    name: str
    began_s: float

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception):  # a cancelled call is not an error
            self.trace.error = error.code if isinstance(error, InvalidCall) else type(error).__name__
        self.tracer.record([self.trace.span(self.name, SpanKind.SERVER, self.began_s, time())])


def _note(attributes: dict[str, Attribute], chunk: EngineChunk, since_s: float) -> None:
    """`since_s` is the time since the call came."""
    num_tokens = attributes.get(OUTPUT_TOKENS)
    if num_tokens is None:
        attributes |= {
            "gen_ai.response.time_to_first_chunk": since_s,
            "etr.engine_queue_ms": round(1000 * chunk.queue_s, 3),
            "etr.prefill_ms": round(1000 * chunk.prefill_s, 3),
        }
    assert num_tokens is None or isinstance(num_tokens, int)
    attributes[OUTPUT_TOKENS] = (num_tokens or 0) + len(chunk.token_ids) + chunk.num_unnamed_tokens
    if chunk.num_prompt_tokens:
        attributes["gen_ai.usage.input_tokens"] = chunk.num_prompt_tokens
    if chunk.num_cached_tokens:
        attributes["gen_ai.usage.cache_read.input_tokens"] = chunk.num_cached_tokens
    if chunk.finish is not None:
        attributes["gen_ai.response.finish_reasons"] = [chunk.finish.value]
