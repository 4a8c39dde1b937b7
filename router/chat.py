"""One request's answer: the jobs that write it, and the shapes in which a client gets it."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from router.errors import InvalidRequest
from router.job import Delta, Done, Job, ModelUsage
from router.openai import AnswerRequest
from router.policy import Routing, resolve
from router.stream import event, event_around, to_json
from router.table import RouteTable
from router.timing import Timing

UNREAD_GAP_S = 0.25  # between messages of an answer that goes out as a whole: each costs what a token costs
PLACE = "\n"  # no field but the text can be this
# What the jobs of one request write, merged: the index of the choice, and its next item.
Items = AsyncGenerator[tuple[int, Delta | Done], None]


class Answer(ABC):
    """Renders what the jobs write; every part repeats one id, model name, time of creation and fingerprint.

    Raises:
        RequestError: as `jobs`.
    """

    id_prefix: ClassVar[str]
    body_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, request: AnswerRequest, table: RouteTable, key: str = "") -> None:
        self.id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self.jobs = jobs(request, table, self.id, key)
        self._request = request
        self._encoded: dict[tuple[int, str], tuple[bytes, bytes]] = {}
        self._stamp = {
            "created": int(time.time()),
            "model": request.model or table.name,
            "system_fingerprint": f"epoch-{table.epoch}",
        }

    async def body(self, items: Items) -> dict[str, Any]:
        """The whole answer at once."""
        texts = [""] * len(self.jobs)
        done: dict[int, Done] = {}
        async with aclosing(items):
            async for index, item in items:
                if isinstance(item, Delta):
                    texts[index] += item.text
                else:
                    done[index] = item
        choices = [self._whole(index, text, done[index]) for index, text in enumerate(texts)]
        head = {"id": self.id, "object": self.body_object, **self._stamp}
        return {**head, "choices": choices, "usage": self._usage(done)}

    async def events(self, items: Items) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events, one for each item, without the closing [DONE]."""
        head: dict[str, Any] = {"id": self.id, "object": self.chunk_object, **self._stamp}
        with_usage = self._request.stream_options.include_usage
        if with_usage:
            head["usage"] = None
        done: dict[int, Done] = {}
        begun: set[int] = set()
        async with aclosing(items):
            async for index, item in items:
                if isinstance(item, Delta) and index in begun:
                    around = self._around(head, index, item.model)
                    yield to_json(item.text).join(around)
                    continue
                yield event({**head, **self._part(index, item, first=index not in begun)})
                begun.add(index)
                if isinstance(item, Done):
                    done[index] = item
        if with_usage:
            yield event({**head, "choices": [], "usage": self._usage(done)})

    def _around(self, head: dict[str, Any], index: int, model: str) -> tuple[bytes, bytes]:
        """What is the same in every event of this choice with this author: it is encoded once."""
        key = (index, model if self._request.trace else "")
        if key not in self._encoded:
            part = self._part(index, Delta(PLACE, model), first=False)
            self._encoded[key] = event_around(PLACE, {**head, **part})
        return self._encoded[key]

    def _whole(self, index: int, text: str, done: Done) -> dict[str, Any]:
        content = self.whole_content(text)
        choice = {"index": index, **content, "logprobs": None, "finish_reason": done.finish.value}
        return {**choice, "routing": _trace(done)} if self._request.trace else choice

    def _part(self, index: int, item: Delta | Done, *, first: bool) -> dict[str, Any]:
        """One chunk's own fields: a delta's text, or the finish reason at the end."""
        text, finish = (item.text, None) if isinstance(item, Delta) else ("", item.finish.value)
        content = self.part_content(text, first=first)
        part = {"choices": [{"index": index, **content, "logprobs": None, "finish_reason": finish}]}
        if not self._request.trace:
            return part
        routing = {"model": item.model} if isinstance(item, Delta) else _trace(item)
        return {**part, "routing": routing}

    def _usage(self, done: Mapping[int, Done]) -> dict[str, Any]:
        """What the client sees, each prompt counted once; under `models`, what every model did for it."""
        num_prompt_tokens = sum(done[i].num_prompt_tokens for i in range(0, len(done), self._request.n))
        num_completion_tokens = sum(one.num_completion_tokens for one in done.values())
        return {
            **token_counts(num_prompt_tokens, num_completion_tokens),
            "models": _by_model([one.usage_by_model for one in done.values()]),
        }

    @abstractmethod
    def whole_content(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def part_content(self, text: str, *, first: bool) -> dict[str, Any]: ...


class ChatAnswer(Answer):
    id_prefix = "chatcmpl"
    body_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole_content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part_content(self, text: str, *, first: bool) -> dict[str, Any]:
        if first:
            return {"delta": {"role": "assistant", "content": text}}
        return {"delta": {"content": text} if text else {}}


class TextAnswer(Answer):
    id_prefix = "cmpl"
    body_object = chunk_object = "text_completion"

    def whole_content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def part_content(self, text: str, *, first: bool) -> dict[str, Any]:
        return {"text": text}


def token_counts(num_prompt_tokens: int, num_completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
    }


def jobs(request: AnswerRequest, table: RouteTable, answer_id: str, key: str = "") -> list[Job]:
    """One job for each choice: `n` for the first prompt, then `n` for the next one; `key` names who asks.

    Raises:
        UnknownModel: the table has no such model.
        InvalidRequest: a routing option names an unknown expert or cannot take effect.
    """
    wishes = request.routing.wishes() if request.routing else Routing()
    target = resolve(table, request.model, wishes)
    if request.routing is None and not request.routed_unasked:
        wishes = Routing(experts=())
    prompts = request.prompts()
    let_in: set[str] = set()
    if target.routed and wishes.experts != () and any(prompt.ids for prompt in prompts):
        raise InvalidRequest("token ids belong to one model: send text to have it routed", "prompt")
    return [
        Job(
            request_id=f"{answer_id}-{index}",
            prompt=prompts[index // request.n],
            target=target,
            sampling=request.sampling(index % request.n),
            max_tokens=request.token_limit(),
            stop=tuple(request.stop),
            message_gap_s=_message_gap_s(request),
            routing=wishes,
            key=key,
            let_in=let_in,
        )
        for index in range(len(prompts) * request.n)
    ]


def _message_gap_s(request: AnswerRequest) -> float:
    """A stop string is looked for in what has come, and should not be found late."""
    return 0.0 if request.stream or request.stop else UNREAD_GAP_S


def _trace(done: Done) -> dict[str, Any]:
    return {
        "spans": [
            {"model": s.model, "text": s.text, "num_tokens": s.num_tokens, "probability": s.probability}
            for s in done.spans
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


def _by_model(usages: list[dict[str, ModelUsage]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for model, usage in (pair for by_model in usages for pair in by_model.items()):
        sums = total.setdefault(model, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0})
        sums["calls"] += usage.num_calls
        sums["prompt_tokens"] += usage.num_prompt_tokens
        sums["completion_tokens"] += usage.num_completion_tokens
    return total
