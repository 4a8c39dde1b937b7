"""The router's requests as those of an engine, and an engine's chunks as those of the router.

The two packages do not know each other, so each has types of its own with the same fields.
"""

from __future__ import annotations

from typing import Any

from experts.engine import chunk as engine
from experts.engine import request as asked
from experts.engine import tasks as engine_tasks
from experts.engine.chunk import EngineChunk
from experts.engine.request import EngineRequest
from experts.engine.routing_report import RoutingReport as EngineReport
from router import parts, prompt, sampling, tasks
from router.model_port import Finish, ModelChunk, ModelRequest
from router.routing_report import Candidates, RoutingReport, ShadowWin


def to_engine_request(request: ModelRequest) -> EngineRequest:
    messages, chat, resumed = request.prompt.messages, request.prompt.options, request.resumed
    chosen = request.sampling
    return EngineRequest(
        request_id=request.request_id,
        messages=None if messages is None else tuple(map(_to_openai, messages)),
        text=request.prompt.text,
        ids=request.prompt.ids,
        inputs=request.prompt.inputs,
        written=request.prompt.written + request.written,
        resumed=None if resumed is None else asked.Resumed(resumed.text, resumed.ids, resumed.tokenizer),
        position=request.position,
        max_tokens=request.max_tokens,
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        top_k=chosen.top_k,
        seed=chosen.seed,
        sampling=None if chosen.options is None else _to_sampling_options(chosen.options),
        chat=None if chat is None else asked.ChatOptions(**_fields(chat)),
        allowed=request.allowed,
        shadows=request.shadows,
        reports_start=request.reports_start,
        windows=request.windows,
        bias=request.bias,
        in_place=request.in_place,
        only_at_start=request.only_at_start,
        probe=request.probe,
        task=None if request.task is None else _to_engine_task(request.task),
        adapter=request.adapter,
        cache_salt=request.cache_salt,
        trace_headers=request.trace_headers,
        message_gap_s=request.message_gap_s,
    )


def to_model_chunk(chunk: EngineChunk) -> ModelChunk:
    return ModelChunk(
        text=chunk.text,
        num_tokens=len(chunk.token_ids) + chunk.num_unnamed_tokens,
        ids=chunk.token_ids,
        parts=None if chunk.parts is None else tuple(map(_to_part, chunk.parts)),
        logprobs=tuple(map(_to_logprobs, chunk.logprobs)) if chunk.logprobs else (),
        prompt_logprobs=tuple(map(_to_logprobs, chunk.prompt_logprobs)) if chunk.prompt_logprobs else (),
        tokenizer=chunk.tokenizer,
        num_prompt_tokens=chunk.num_prompt_tokens,
        num_cached_tokens=chunk.num_cached_tokens,
        finish=None if chunk.finish is None else Finish(chunk.finish.value),
        stop_token=chunk.stop_token,
        expert=chunk.expert,
        probability=chunk.probability,
        distribution=chunk.distribution,
        routing=None if chunk.routing is None else _to_report(chunk.routing),
        tokenized=None if chunk.tokenized is None else tasks.TokenizedPrompt(**_fields(chunk.tokenized)),
        vectors=chunk.vectors,
        queue_s=chunk.queue_s,
        prefill_s=chunk.prefill_s,
    )


def _to_openai(message: prompt.Message) -> dict[str, Any]:
    """The message as OpenAI's API has it, without fields that say nothing."""
    content = [*map(_content_part, message.parts())] if message.media else message.content
    fields: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    optional = {name: getattr(message, name) for name in ("reasoning", "name")}
    if message.role == "tool":
        optional["tool_call_id"] = message.tool_call_id
    return fields | {name: value for name, value in optional.items() if value is not None}


def _content_part(part: str | prompt.Media) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    match part.modality:
        case "audio":
            header, _, data = part.url.partition(",")
            audio_format = "wav" if header.startswith("data:audio/wav") else "mp3"
            return {"type": "input_audio", "input_audio": {"data": data, "format": audio_format}}
        case "file":
            return {"type": "file", "file": {"filename": part.name or "file.pdf", "file_data": part.url}}
        case _:
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": part.url, **detail}}


def _to_sampling_options(options: sampling.SamplingOptions) -> asked.SamplingOptions:
    fields, grammar = _fields(options), options.grammar
    if grammar is not None:
        fields["grammar"] = asked.Grammar(asked.GrammarKind(grammar.kind.value), grammar.source)
    return asked.SamplingOptions(**fields)


def _to_engine_task(task: tasks.Task) -> engine_tasks.Task:
    match task:
        case tasks.Tokenize():
            return engine_tasks.Tokenize(**_fields(task))
        case tasks.Detokenize():
            return engine_tasks.Detokenize()
        case tasks.Embed():
            return engine_tasks.Embed(**_fields(task))


def _fields(options: Any) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__slots__}


def _to_part(part: engine.Part) -> parts.Part:
    match part:
        case engine.TextPart():
            return parts.TextPart(part.text)
        case engine.ReasoningPart():
            return parts.ReasoningPart(part.text)
        case engine.ToolCallPart():
            return parts.ToolCallPart(part.index, part.name, part.arguments)


def _to_report(report: EngineReport) -> RoutingReport:
    found = report.candidates
    candidates = None if found is None else Candidates(found.word, found.experts)
    wins = (ShadowWin(win.shadow, win.over, win.probability, win.position) for win in report.shadow_wins)
    return RoutingReport(candidates, tuple(wins))


def _to_logprobs(token: engine.TokenLogprobs) -> parts.TokenLogprobs:
    top = tuple(parts.Alternative(each.token, each.data, each.logprob, each.id) for each in token.top)
    return parts.TokenLogprobs(token.token, token.data, token.logprob, top, token.id)
