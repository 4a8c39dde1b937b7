"""The answer to one request: the generations that it needs, and the JSON that the client gets."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

from router.api.requests import AnswerRequest
from router.api.sse import Write, event, event_around, for_each, to_json
from router.decoding.generation import Delta, Done, GenerationRequest, ModelUsage
from router.decoding.policy import Routing, admission_context, resolve
from router.decoding.timing import Timing
from router.errors import InvalidRequest
from router.table import RouteTable

# How long models may hold back text of an answer that is sent as a whole: a message costs as much as a token.
UNSTREAMED_MESSAGE_GAP_S = 0.25
_PLACEHOLDER = "\n"  # stands for the text of an event; no other field can have this value
Streams = Sequence[AsyncGenerator[Delta | Done, None]]  # one stream per choice


class Answer(ABC):
    """Renders what the generations produce. All parts repeat the same id, model, time and fingerprint.

    Raises:
        RequestError: as `generations`.
    """

    id_prefix: ClassVar[str]
    body_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, request: AnswerRequest, table: RouteTable, key: str = "") -> None:
        self.id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self.generations = generations(request, table, self.id, key)
        self._request = request
        self._with_usage = request.stream_options.include_usage
        self._stamp = {
            "created": int(time.time()),
            "model": request.model or table.name,
            "system_fingerprint": f"table-{table.table_version}",
        }
        self._encoded: dict[tuple[int, str], tuple[bytes, bytes]] = {}

    async def body(self, streams: Streams) -> dict[str, Any]:
        """The whole answer, once all streams have ended."""
        texts = [""] * len(self.generations)
        done: dict[int, Done] = {}

        async def add(index: int, item: Delta | Done) -> None:
            if isinstance(item, Delta):
                texts[index] += item.text
            else:
                done[index] = item

        await for_each(streams, add)
        choices = [self._whole_choice(index, text, done[index]) for index, text in enumerate(texts)]
        head = {"id": self.id, "object": self.body_object, **self._stamp}
        return {**head, "choices": choices, "usage": self._usage(done)}

    async def write_events(self, streams: Streams, write: Write) -> None:
        """Write one server-sent event per item of the streams, without the final [DONE]."""
        done: dict[int, Done] = {}
        begun: set[int] = set()

        async def write_item(index: int, item: Delta | Done) -> None:
            if isinstance(item, Delta) and index in begun:
                await write(to_json(item.text).join(self._event_around(index, item.model)))
                return
            await write(event(self._chunk(index, item, first=index not in begun)))
            begun.add(index)
            if isinstance(item, Done):
                done[index] = item

        await for_each(streams, write_item)
        if self._with_usage:
            await write(event({**self._chunk_head(), "choices": [], "usage": self._usage(done)}))

    def _event_around(self, index: int, model: str) -> tuple[bytes, bytes]:
        """The parts of an event that depend only on the choice and the writing model; encoded once."""
        key = (index, model if self._request.trace else "")
        if key not in self._encoded:
            chunk = self._chunk(index, Delta(_PLACEHOLDER, model), first=False)
            self._encoded[key] = event_around(_PLACEHOLDER, chunk)
        return self._encoded[key]

    def _whole_choice(self, index: int, text: str, done: Done) -> dict[str, Any]:
        content = self.whole_content(text)
        choice = {"index": index, **content, "logprobs": None, "finish_reason": done.finish.value}
        return {**choice, "routing": _trace(done)} if self._request.trace else choice

    def _chunk(self, index: int, item: Delta | Done, *, first: bool) -> dict[str, Any]:
        text, finish = (item.text, None) if isinstance(item, Delta) else ("", item.finish.value)
        content = self.chunk_content(text, first=first)
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        chunk = {**self._chunk_head(), "choices": [choice]}
        if not self._request.trace:
            return chunk
        return {**chunk, "routing": {"model": item.model} if isinstance(item, Delta) else _trace(item)}

    def _chunk_head(self) -> dict[str, Any]:
        head: dict[str, Any] = {"id": self.id, "object": self.chunk_object, **self._stamp}
        return {**head, "usage": None} if self._with_usage else head

    def _usage(self, done: Mapping[int, Done]) -> dict[str, Any]:
        """Each prompt counts once; under `models`, the prompt of every call to a model counts."""
        num_prompt_tokens = sum(done[i].num_prompt_tokens for i in range(0, len(done), self._request.n))
        num_completion_tokens = sum(choice.num_completion_tokens for choice in done.values())
        return {
            **token_counts(num_prompt_tokens, num_completion_tokens),
            "models": _usage_by_model([choice.usage_by_model for choice in done.values()]),
        }

    @abstractmethod
    def whole_content(self, text: str) -> dict[str, Any]:
        """The fields of a complete choice that hold its text."""

    @abstractmethod
    def chunk_content(self, text: str, *, first: bool) -> dict[str, Any]:
        """The fields of a streamed choice that hold the next text."""


class ChatAnswer(Answer):
    id_prefix = "chatcmpl"
    body_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole_content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def chunk_content(self, text: str, *, first: bool) -> dict[str, Any]:
        if first:
            return {"delta": {"role": "assistant", "content": text}}
        return {"delta": {"content": text} if text else {}}


class TextAnswer(Answer):
    id_prefix = "cmpl"
    body_object = chunk_object = "text_completion"

    def whole_content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def chunk_content(self, text: str, *, first: bool) -> dict[str, Any]:
        return {"text": text}


def token_counts(num_prompt_tokens: int, num_completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
    }


def generations(
    request: AnswerRequest, table: RouteTable, answer_id: str, key: str = ""
) -> list[GenerationRequest]:
    """One generation per choice: `n` for the first prompt, then `n` for the next.

    `key` is the name of the request's API key, empty without keys.

    Raises:
        UnknownModel: the route table has no such model.
        InvalidRequest: a routing option names an unknown expert or has no effect.
    """
    routing = request.routing.to_routing() if request.routing else Routing()
    target = resolve(table, request.model, routing)
    if request.routing is None and not request.routed_by_default:
        routing = Routing(experts=())
    prompts = request.prompts()
    if target.routed and routing.experts != () and any(prompt.ids for prompt in prompts):
        raise InvalidRequest("prompt: token ids differ between models; send text to have it routed", "prompt")
    admission = admission_context(table, target, routing, key)
    return [
        GenerationRequest(
            request_id=f"{answer_id}-{index}",
            prompt=prompts[index // request.n],
            target=target,
            sampling=request.sampling(index % request.n),
            max_tokens=request.token_limit(),
            stop=tuple(request.stop),
            message_gap_s=_message_gap_s(request),
            routing=routing,
            admission=admission,
        )
        for index in range(len(prompts) * request.n)
    ]


def _message_gap_s(request: AnswerRequest) -> float:
    # With stop strings the text is needed at once: a model that goes on after one does needless work.
    return 0.0 if request.stream or request.stop else UNSTREAMED_MESSAGE_GAP_S


def _trace(done: Done) -> dict[str, Any]:
    return {
        "spans": [
            {
                "model": span.model,
                "text": span.text,
                "num_tokens": span.num_tokens,
                "probability": span.probability,
            }
            for span in done.spans
        ],
        "timing": _timing(done.timing),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    calls = [
        {"model": call.model, **{f"{phase}_ms": _ms(time_s) for phase, time_s in call.phases()}}
        for call in timing.calls
    ]
    first_text_ms = None if timing.first_text_s is None else _ms(timing.first_text_s)
    return {"first_text_ms": first_text_ms, "total_ms": _ms(timing.total_s), "calls": calls}


def _ms(time_s: float) -> float:
    return round(1000 * time_s, 3)


def _usage_by_model(usages: list[dict[str, ModelUsage]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for model, usage in (pair for by_model in usages for pair in by_model.items()):
        sums = total.setdefault(model, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0})
        sums["calls"] += usage.num_calls
        sums["prompt_tokens"] += usage.num_prompt_tokens
        sums["completion_tokens"] += usage.num_completion_tokens
    return total
