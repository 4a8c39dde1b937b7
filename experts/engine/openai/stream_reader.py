"""The stream of a server that speaks the OpenAI API, event by event, as engine chunks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from experts.engine.chunk import EngineChunk, FinishReason, Part, ReasoningPart, TextPart, ToolCallPart
from experts.engine.openai.logprobs_reader import read_logprobs
from experts.errors import RemoteUnavailable

# Other servers have more names for an ordinary end than OpenAI. A content filter's end counts as one too: the
# text before it is valid.
FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "content_filter": FinishReason.STOP,
    "tool_calls": FinishReason.STOP,
    "function_call": FinishReason.STOP,
    "length": FinishReason.LENGTH,
}
_HIGH_SURROGATE_AT_END = re.compile("[\ud800-\udbff]$")


class StreamReader:
    """Reads the events of one answer, of /chat/completions or /completions; `name` is the model's.

    A server reports the number of tokens at the end or with each event. Until it has, the text of each event
    counts as one token, which is never too many unless a server sends tokens in parts.
    """

    def __init__(self, name: str) -> None:
        self.text = ""
        self.finish: str | None = None
        self.num_prompt_tokens: int | None = None
        self.num_completion_tokens: int | None = None
        self._name = name
        self._num_reported = 0
        self._has_parts = False
        self._high_surrogate = ""  # half a character: some servers split a surrogate pair over two events

    def read(self, event: Mapping[str, Any]) -> EngineChunk:
        """What the event adds. An event without text gives a chunk too: it shows that the server works."""
        self._read_usage(event.get("usage"))
        choice = _first(event.get("choices"))
        self.finish = _str(choice.get("finish_reason")) or self.finish
        delta = _dict(choice.get("delta"))
        text = self._whole_characters(_str(delta.get("content")) or _str(choice.get("text")))
        self.text += text
        thought = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        calls = _calls(delta)
        parts: list[Part] = [ReasoningPart(thought)] if thought else []
        parts += [TextPart(text)] if text else []
        parts += calls
        # Once there was more than text, every chunk has parts.
        self._has_parts = self._has_parts or bool(thought or calls)
        return EngineChunk(
            text,
            num_unnamed_tokens=self._num_new_tokens(bool(parts)),
            parts=tuple(parts) if self._has_parts else None,
            logprobs=read_logprobs(choice.get("logprobs")),
        )

    def last(self) -> EngineChunk:
        """The last chunk, once there are no more events.

        Raises:
            RemoteUnavailable: the stream ended before the answer did.
        """
        finish = FINISH_REASONS.get(self.finish or "")
        if finish is None:
            ending = f"with '{self.finish[:40]}'" if self.finish else "without a finish reason"
            raise RemoteUnavailable(f"{self._name}: the server ended its stream {ending}")
        text = "\ufffd" if self._high_surrogate else ""
        self._high_surrogate = ""
        self.text += text
        return EngineChunk(
            text,
            num_unnamed_tokens=self._num_new_tokens(False),
            parts=((TextPart(text),) if text else ()) if self._has_parts else None,
            num_prompt_tokens=self.num_prompt_tokens,
            finish=finish,
        )

    def _read_usage(self, usage: object) -> None:
        counts = _dict(usage)
        self.num_prompt_tokens = _count(counts.get("prompt_tokens"), self.num_prompt_tokens)
        self.num_completion_tokens = _count(counts.get("completion_tokens"), self.num_completion_tokens)

    def _num_new_tokens(self, has_parts: bool) -> int:
        if self.num_completion_tokens is None:
            num_new = int(has_parts)
        else:
            num_new = max(0, self.num_completion_tokens - self._num_reported)
        self._num_reported += num_new
        return num_new

    def _whole_characters(self, text: str) -> str:
        """JSON can hold half a surrogate pair, which cannot be encoded: it waits for the other half."""
        text = self._high_surrogate + text
        half = _HIGH_SURROGATE_AT_END.search(text)
        self._high_surrogate = half.group() if half else ""
        return _text(text[: half.start()] if half else text)


def _calls(delta: Mapping[str, Any]) -> list[ToolCallPart]:
    """The pieces of tool calls; some servers leave out the index of a single call."""
    calls = delta.get("tool_calls")
    found = []
    for call in calls if isinstance(calls, list) else ():
        function = _dict(_dict(call).get("function"))
        name, arguments = _text(function.get("name")) or None, _text(function.get("arguments"))
        if name or arguments:
            found.append(ToolCallPart(_count(_dict(call).get("index"), None) or 0, name, arguments))
    return found


def _first(value: object) -> Mapping[str, Any]:
    return _dict(value[0]) if isinstance(value, list) and value else {}


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text(value: object) -> str:
    """As `_str`; halves of surrogate pairs, which cannot be encoded, are joined or replaced."""
    text = _str(value)
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: object, default: int | None) -> int | None:
    return value if type(value) is int and value >= 0 else default
