"""The stream of a server that speaks the OpenAI API, event by event, as engine chunks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from experts.engine.chunk import EngineChunk, FinishReason, Part, ReasoningPart, TextPart
from experts.engine.openai.call_reader import CallReader
from experts.engine.openai.json_fields import count_of, dict_of, first_of, str_of, text_of
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
        self._calls = CallReader()
        self._high_surrogate = ""  # half a character: some servers split a surrogate pair over two events

    def read(self, event: Mapping[str, Any]) -> EngineChunk:
        """What the event adds. An event without text gives a chunk too: it shows that the server works."""
        self._read_usage(event.get("usage"))
        choice = first_of(event.get("choices"))
        self.finish = str_of(choice.get("finish_reason")) or self.finish
        delta = dict_of(choice.get("delta"))
        text = self._whole_characters(str_of(delta.get("content")) or str_of(choice.get("text")))
        self.text += text
        thought = text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning"))
        calls = self._calls.read(delta)
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
        counts = dict_of(usage)
        self.num_prompt_tokens = count_of(counts.get("prompt_tokens"), self.num_prompt_tokens)
        self.num_completion_tokens = count_of(counts.get("completion_tokens"), self.num_completion_tokens)

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
        return text_of(text[: half.start()] if half else text)
