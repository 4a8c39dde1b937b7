"""The answer to a request: one message, as a whole or in events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.api.dialect import Answer, Streams
from router.api.sse import Framing, Write, event_around, for_each, to_json, typed_event
from router.api.trace import trace
from router.decoding.delta import Delta, TextDelta
from router.decoding.generation import Done, Progress
from router.dialects.messages.blocks import ContentBlocks, Event, whole_content
from router.dialects.messages.errors import FRAMING
from router.model_port import Finish

_PLACEHOLDER = "\n"  # stands for the text of an event; no other field can have this value


class MessageAnswer(Answer):
    id_prefix = "msg"

    @property
    def framing(self) -> Framing:
        return FRAMING

    async def body(self, streams: Streams) -> dict[str, Any]:
        blocks, events, ends = ContentBlocks(), list[Event](), list[Done]()

        async def add(_: int, item: Delta | Done) -> None:
            if isinstance(item, Done):
                events.extend(blocks.close())
                ends.append(item)
            else:
                events.extend(blocks.add(item))

        await for_each(self._shown(streams), add)
        [done] = ends
        return {
            **self._message(whole_content(events)),
            **_end(done),
            "usage": self._usage(done),
            **self._trace(done),
        }

    async def write_events(self, streams: Streams, write: Write) -> None:
        blocks, has_begun = ContentBlocks(), False
        around: dict[tuple[int, str], tuple[bytes, bytes]] = {}

        async def write_item(_: int, item: Delta | Done) -> None:
            nonlocal has_begun
            if isinstance(item, TextDelta) and item.text and blocks.open == "text":  # nearly always
                key = (blocks.index, item.model)
                if key not in around:
                    around[key] = self._event_around(blocks, item.model)
                await write(to_json(item.text).join(around[key]))
                return
            events = [] if has_begun else [self._start()]
            has_begun = True
            events += self._last(blocks, item) if isinstance(item, Done) else self._next(blocks, item)
            if events:
                await write(b"".join(map(typed_event, events)))

        await for_each(self._shown(streams), write_item)

    def _start(self) -> Event:
        progress = self.generations[0].progress
        usage = self._token_counts(progress or Progress(), 0)
        message = {**self._message([]), "stop_reason": None, "stop_sequence": None, "usage": usage}
        return {"type": "message_start", "message": message}

    def _next(self, blocks: ContentBlocks, item: Delta) -> Iterable[Event]:
        events = blocks.add(item)
        return (self._by(event, item.model) for event in events) if self._request.trace else events

    def _last(self, blocks: ContentBlocks, done: Done) -> Iterable[Event]:
        yield from blocks.close()
        yield {"type": "message_delta", "delta": _end(done), "usage": self._usage(done), **self._trace(done)}
        yield {"type": "message_stop"}

    def _event_around(self, blocks: ContentBlocks, model: str) -> tuple[bytes, bytes]:
        """The parts of an event with text that are equal for all text of a model in a block."""
        event = blocks.delta({"type": "text_delta", "text": _PLACEHOLDER})
        return event_around(
            _PLACEHOLDER, self._by(event, model) if self._request.trace else event, typed_event
        )

    def _by(self, event: Event, model: str) -> Event:
        is_written = event["type"] == "content_block_delta"
        return {**event, "routing": {"model": model}} if is_written else event

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
        }

    def _usage(self, done: Done) -> dict[str, int]:
        return self._token_counts(done, done.num_completion_tokens)

    def _token_counts(self, prompt: Done | Progress, num_completion_tokens: int) -> dict[str, int]:
        """Tokens that were in a cache do not count as input. If the client is not told, none was."""
        num_cached = prompt.num_cached_tokens if self._tells_cache else 0
        return {
            "input_tokens": prompt.num_prompt_tokens - num_cached,
            "output_tokens": num_completion_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": num_cached,
        }

    def _trace(self, done: Done) -> dict[str, Any]:
        return {"routing": trace(done)} if self._request.trace else {}


def _end(done: Done) -> dict[str, Any]:
    sequence = done.stop_reason if isinstance(done.stop_reason, str) else None
    return {"stop_reason": _stop_reason(done, sequence), "stop_sequence": sequence}


def _stop_reason(done: Done, sequence: str | None) -> str:
    if done.finish is Finish.LENGTH:
        return "max_tokens"
    if sequence is not None:
        return "stop_sequence"
    return "tool_use" if done.has_tool_calls else "end_turn"
