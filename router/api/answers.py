"""The answers of OpenAI's two endpoints: the JSON that the client gets, as a whole or in events."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from router.api.choice import Choice, delta_fields, finish_reason, message_fields
from router.api.dialect import Answer, Streams
from router.api.logprobs import END_OF_TURN, chat_logprobs, prompt_logprobs, text_logprobs
from router.api.requests import AnswerRequest, CompletionRequest
from router.api.sse import Write, event, event_around, for_each, to_json
from router.api.trace import trace
from router.decoding.delta import Delta, PromptDelta, TextDelta
from router.decoding.generation import Done, ModelUsage
from router.model_port import Finish
from router.parts import TokenLogprobs
from router.table import RouteTable

_PLACEHOLDER = "\n"  # stands for the text of an event; no other field can have this value


class CompletionAnswer(Answer):
    """All parts also repeat the same time and fingerprint."""

    body_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, request: AnswerRequest, table: RouteTable, key: str = "") -> None:
        super().__init__(request, table, key)
        self._with_usage = request.stream_options.include_usage
        self._is_continuous = request.stream_options.is_continuous
        options = request.sampling(0).options
        self._with_logprobs = bool(options and options.num_logprobs is not None)
        self._legacy_functions = request.legacy_functions
        self._with_prompt_logprobs = request.prompt_logprobs is not None
        self._stamp = {
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": f"table-{table.table_version}",
        }
        self._tells_author = bool(self.generations[0].routing.stay_bias_in(table))
        self._encoded: dict[tuple[int, str], tuple[bytes, bytes]] = {}

    async def body(self, streams: Streams) -> dict[str, Any]:
        choices = [Choice() for _ in self.generations]

        async def add(index: int, item: Delta | Done) -> None:
            choices[index].add(item)

        await for_each(self._shown(streams), add)
        done = {index: choice.done for index, choice in enumerate(choices) if choice.done}
        head = {"id": self.id, "object": self.body_object, **self._stamp}
        whole = [self._whole_choice(index, choice, done[index]) for index, choice in enumerate(choices)]
        return {**head, "choices": whole, **self._usage(done)}

    async def write_events(self, streams: Streams, write: Write) -> None:
        """Write one server-sent event per item of the streams, without the final [DONE]."""
        done: dict[int, Done] = {}
        begun: set[int] = set()

        async def write_item(index: int, item: Delta | Done) -> None:
            is_first = index not in begun
            is_plain = not is_first and not self._is_continuous
            if isinstance(item, TextDelta) and is_plain and not item.logprobs:  # nearly always
                await write(to_json(item.text).join(self._event_around(index, item.model)))
                return
            if isinstance(item, Done):
                done[index] = item
            begun.add(index)
            await write(event(self._chunk(index, item, first=is_first)))

        await for_each(self._shown(streams), write_item)
        if self._with_usage:
            await write(event({**self._chunk_head(), "choices": [], **self._usage(done)}))

    def _event_around(self, index: int, model: str) -> tuple[bytes, bytes]:
        """The parts of an event that depend only on the choice and the writing model; encoded once."""
        key = (index, model if self._request.trace else "")
        if key not in self._encoded:
            chunk = self._chunk(index, TextDelta(_PLACEHOLDER, model), first=False)
            self._encoded[key] = event_around(_PLACEHOLDER, chunk)
        return self._encoded[key]

    def _whole_choice(self, index: int, choice: Choice, done: Done) -> dict[str, Any]:
        fields = {"index": index, **self.whole_content(index, choice), **self._end(done)}
        return {**fields, "routing": trace(done)} if self._request.trace else fields

    def _chunk(self, index: int, item: Delta | Done, *, first: bool) -> dict[str, Any]:
        end = self._end(item) if isinstance(item, Done) else {"finish_reason": None}
        choice = {"index": index, **self.chunk_content(index, item, first=first), **end}
        chunk = {**self._chunk_head(), "choices": [choice]}
        if (progress := self.generations[index].progress) is not None:
            num_completion = 0 if self._request.writes_nothing else progress.num_completion_tokens
            num_cached = progress.num_cached_tokens if self._tells_cache else None
            chunk["usage"] = token_counts(progress.num_prompt_tokens, num_completion, num_cached)
        if not self._request.trace:
            return chunk
        return {**chunk, "routing": trace(item) if isinstance(item, Done) else {"model": item.model}}

    def _end(self, done: Done) -> dict[str, Any]:
        finish = finish_reason(done, legacy_functions=self._legacy_functions)
        return {"finish_reason": finish, "stop_reason": done.stop_reason}

    def _chunk_head(self) -> dict[str, Any]:
        head: dict[str, Any] = {"id": self.id, "object": self.chunk_object, **self._stamp}
        return {**head, "usage": None} if self._with_usage else head

    def _usage(self, done: Mapping[int, Done]) -> dict[str, Any]:
        """Each prompt counts once in `usage`; by model, the prompt of every call to a model counts.

        Clients add up what stands in `usage`, key by key, so it holds nothing but numbers.
        """
        prompts = [done[index] for index in range(0, len(done), self._request.n)]
        num_prompt_tokens = sum(each.num_prompt_tokens for each in prompts)
        num_cached_tokens = sum(each.num_cached_tokens for each in prompts) if self._tells_cache else None
        num_completion_tokens = sum(choice.num_completion_tokens for choice in done.values())
        return {
            "usage": token_counts(num_prompt_tokens, num_completion_tokens, num_cached_tokens),
            "usage_by_model": usage_by_model([choice.usage_by_model for choice in done.values()]),
        }

    @abstractmethod
    def whole_content(self, index: int, choice: Choice) -> dict[str, Any]:
        """The fields of a complete choice that hold what was written."""

    @abstractmethod
    def chunk_content(self, index: int, item: Delta | Done, *, first: bool) -> dict[str, Any]:
        """The fields of a streamed choice that hold what was written since the last one."""


class ChatAnswer(CompletionAnswer):
    id_prefix = "chatcmpl"
    body_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole_content(self, index: int, choice: Choice) -> dict[str, Any]:
        message = message_fields(choice, legacy_functions=self._legacy_functions)
        if self._tells_author and choice.done is not None:
            message["author"] = choice.done.author
        logprobs = chat_logprobs(choice.logprobs) if self._with_logprobs else None
        fields: dict[str, Any] = {"message": message, "logprobs": logprobs}
        if choice.prompt_logprobs:
            fields["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs)
        return fields

    def chunk_content(self, index: int, item: Delta | Done, *, first: bool) -> dict[str, Any]:
        delta = {}
        if isinstance(item, Done):
            delta = {"author": item.author} if self._tells_author else {}
        else:
            delta = delta_fields(item, legacy_functions=self._legacy_functions)
        logprobs = item.logprobs if isinstance(item, TextDelta) else ()
        return {
            "delta": {"role": "assistant", "content": "", **delta} if first else delta,
            "logprobs": chat_logprobs(logprobs) if logprobs else None,
        }


class TextAnswer(CompletionAnswer):
    id_prefix = "cmpl"
    body_object = chunk_object = "text_completion"

    def __init__(self, request: CompletionRequest, table: RouteTable, key: str = "") -> None:
        super().__init__(request, table, key)
        self._echo = request.echo
        self._offsets: dict[int, int] = {}  # by choice: where the text of the next token begins

    def whole_content(self, index: int, choice: Choice) -> dict[str, Any]:
        echoed = self._echoed(index, choice.prompt_logprobs)
        fields: dict[str, Any] = {"text": echoed + choice.text, "logprobs": None}
        if self._with_logprobs:
            before = choice.prompt_logprobs if self._echo else ()
            fields["logprobs"] = text_logprobs(
                [*before, *choice.logprobs, *self._end_of_turn(choice.done)], 0
            )
        if choice.prompt_logprobs and self._with_prompt_logprobs:
            fields["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs)
        return fields

    def chunk_content(self, index: int, item: Delta | Done, *, first: bool) -> dict[str, Any]:
        text, logprobs = "", tuple[TokenLogprobs, ...]()
        if isinstance(item, TextDelta):
            text, logprobs = item.text, item.logprobs
        elif isinstance(item, PromptDelta) and self._echo:
            logprobs = item.logprobs
        elif isinstance(item, Done):
            logprobs = self._end_of_turn(item)
        if first:
            text = self._echoed(index, logprobs) + text
        offset = self._offsets.get(index, 0)
        # Text is also sent before the log-probabilities of its token, so it does not count here.
        self._offsets[index] = offset + sum(len(token.token) for token in logprobs)
        return {
            "text": text,
            "logprobs": text_logprobs(logprobs, offset) if logprobs and self._with_logprobs else None,
        }

    def _end_of_turn(self, done: Done | None) -> tuple[TokenLogprobs, ...]:
        """The token that ended the turn, if it is the only one that was generated.

        A client that scores a prompt echoes it, asks for one token, and does not read the last entry.
        """
        is_only = done is not None and done.finish is Finish.STOP and not done.num_completion_tokens
        return (END_OF_TURN,) if self._echo and is_only else ()

    def _echoed(self, index: int, tokens: Sequence[TokenLogprobs]) -> str:
        """The prompt, if the client wants it back. The text of token ids is known from their tokens."""
        if not self._echo:
            return ""
        prompt = self.generations[index].prompt
        return "".join(token.token for token in tokens) if prompt.text is None else prompt.text


def token_counts(
    num_prompt_tokens: int, num_completion_tokens: int, num_cached_tokens: int | None = None
) -> dict[str, Any]:
    """`num_cached_tokens`: those of the prompt; None if the client is not told."""
    counts = {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
    }
    if num_cached_tokens is None:
        return counts
    return {**counts, "prompt_tokens_details": {"cached_tokens": num_cached_tokens}}


def usage_by_model(usages: list[dict[str, ModelUsage]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for model, usage in (pair for by_model in usages for pair in by_model.items()):
        sums = total.setdefault(model, {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0})
        sums["calls"] += usage.num_calls
        sums["prompt_tokens"] += usage.num_prompt_tokens
        sums["completion_tokens"] += usage.num_completion_tokens
    return total
