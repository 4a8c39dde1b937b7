"""The items of an answer, and the events that tell a client how they grow."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from router.api.logprobs import chat_logprobs
from router.dialects.responses.items import seal
from router.parts import TokenLogprobs

Event = dict[str, Any]
IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED = "in_progress", "completed", "incomplete", "failed"


class OutputItem(ABC):
    """An item that grows by text: that of a message, of thoughts, or of the arguments of a call."""

    id_prefix: ClassVar[str]
    text_kind: ClassVar[str]  # of the text, in the names of events

    def __init__(self, index: int) -> None:
        self.status = IN_PROGRESS
        self._index = index
        self._id = f"{self.id_prefix}_{uuid.uuid4().hex}"
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def begin(self) -> Iterator[Event]:
        yield self._item_event("added")

    def grow(self, text: str, logprobs: Iterable[TokenLogprobs] = ()) -> Event:
        self._pieces.append(text)
        return self._event(f"{self.text_kind}.delta", delta=text)

    def end(self, status: str) -> Iterator[Event]:
        self.status = status
        yield self._item_event("done")

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The item as clients get it."""

    def _item_event(self, kind: str) -> Event:
        return {"type": f"response.output_item.{kind}", "output_index": self._index, "item": self.fields()}

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", "item_id": self._id, "output_index": self._index, **fields}


class TextOutput(OutputItem):
    """An item whose content is one part. The item shows it once it is whole."""

    def begin(self) -> Iterator[Event]:
        yield from super().begin()
        yield self._event("content_part.added", content_index=0, part=self._part())

    def grow(self, text: str, logprobs: Iterable[TokenLogprobs] = ()) -> Event:
        return {**super().grow(text), "content_index": 0}

    def end(self, status: str) -> Iterator[Event]:
        part = self._part()
        of_text = {key: value for key, value in part.items() if key in ("text", "logprobs")}
        yield self._event(f"{self.text_kind}.done", content_index=0, **of_text)
        yield self._event("content_part.done", content_index=0, part=part)
        yield from super().end(status)

    @abstractmethod
    def _part(self) -> dict[str, Any]: ...

    def _content(self) -> list[dict[str, Any]]:
        return [] if self.status == IN_PROGRESS else [self._part()]


class MessageOutput(TextOutput):
    id_prefix, text_kind = "msg", "output_text"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._logprobs: list[dict[str, Any]] = []

    def grow(self, text: str, logprobs: Iterable[TokenLogprobs] = ()) -> Event:
        entries = chat_logprobs(logprobs)["content"]
        self._logprobs += entries
        return {**super().grow(text), "logprobs": entries}

    def fields(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": self._content(),
        }

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._logprobs}


class ReasoningOutput(TextOutput):
    id_prefix, text_kind = "rs", "reasoning_text"

    def fields(self) -> dict[str, Any]:
        content = self._content()
        return {"id": self._id, "type": "reasoning", "status": self.status, "summary": [], "content": content}

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self.text}


class SealedReasoningOutput(ReasoningOutput):
    """The thoughts stand in the item a second time."""

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "encrypted_content": seal(self.text)}


class CallOutput(OutputItem):
    """A call of a function."""

    id_prefix, text_kind = "fc", "function_call_arguments"

    def __init__(self, index: int, call_id: str, namespace: str | None, name: str) -> None:
        super().__init__(index)
        self._call = {"call_id": call_id, "name": name}
        if namespace is not None:
            self._call["namespace"] = namespace

    def end(self, status: str) -> Iterator[Event]:
        yield self._event(f"{self.text_kind}.done", name=self._call["name"], arguments=self.text)
        yield from super().end(status)

    def fields(self) -> dict[str, Any]:
        of_item = {"id": self._id, "type": "function_call", "status": self.status}
        return {**of_item, **self._call, "arguments": self.text}
