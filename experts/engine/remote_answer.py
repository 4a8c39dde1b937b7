"""What a server of the OpenAI API streams, event by event, as chunks of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from experts.engine.base import Chunk, FinishReason
from experts.errors import RemoteUnavailable

# Servers have more words for an ordinary end than OpenAI. A content filter's is one: the text is what it is.
FINISHES = {
    "stop": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "content_filter": FinishReason.STOP,
    "length": FinishReason.LENGTH,
}
_HALF_CHARACTER = re.compile("[\ud800-\udbff]$")


class RemoteAnswer:
    """Reads the events of one answer, of /chat/completions or /completions.

    How many tokens there are, a server says at the end or with every event. Until it has, each text counts
    as one token: never too many where a server sends no token in parts.
    """

    def __init__(self, name: str) -> None:
        self.text = ""
        self.finish: str | None = None
        self.num_prompt_tokens: int | None = None
        self.num_completion_tokens: int | None = None
        self._name = name
        self._num_told = 0
        self._half = ""  # the first half of a surrogate pair that a server cut in two

    def read(self, event: Mapping[str, Any]) -> Chunk:
        """What the event adds. One without text is told too: it shows that the server is at work."""
        self._count(event.get("usage"))
        choice = _first(event.get("choices"))
        self.finish = _str(choice.get("finish_reason")) or self.finish
        text = self._whole_characters(
            _str(_dict(choice.get("delta")).get("content")) or _str(choice.get("text"))
        )
        self.text += text
        return Chunk(text, num_unnamed_tokens=self._num_new(text))

    def last(self) -> Chunk:
        """The end, once there are no more events.

        Raises:
            RemoteUnavailable: the stream ended before the answer did.
        """
        finish = FINISHES.get(self.finish or "")
        if finish is None:
            ended = f"with '{self.finish[:40]}'" if self.finish else "without a finish reason"
            raise RemoteUnavailable(f"{self._name}: the server ended its stream {ended}")
        text = "\ufffd" if self._half else ""
        self._half = ""
        self.text += text
        return Chunk(
            text,
            num_unnamed_tokens=self._num_new(""),
            num_prompt_tokens=self.num_prompt_tokens,
            finish=finish,
        )

    def _count(self, usage: object) -> None:
        counts = _dict(usage)
        self.num_prompt_tokens = _number(counts.get("prompt_tokens"), self.num_prompt_tokens)
        self.num_completion_tokens = _number(counts.get("completion_tokens"), self.num_completion_tokens)

    def _num_new(self, text: str) -> int:
        if self.num_completion_tokens is None:
            num_new = 1 if text else 0
        else:
            num_new = max(0, self.num_completion_tokens - self._num_told)
        self._num_told += num_new
        return num_new

    def _whole_characters(self, text: str) -> str:
        """JSON can hold half a character, and half a character cannot be sent on."""
        text = self._half + text
        half = _HALF_CHARACTER.search(text)
        self._half = half.group() if half else ""
        text = text[: half.start()] if half else text
        if text.isascii():
            return text
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _first(value: object) -> Mapping[str, Any]:
    return _dict(value[0]) if isinstance(value, list) and value else {}


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object, otherwise: int | None) -> int | None:
    return value if type(value) is int and value >= 0 else otherwise
