"""The answer to one request: its `response` object, as a whole or in typed events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from router.api.dialect import Answer, Streams
from router.api.requests import ChatRequest
from router.api.sse import Framing, Write, for_each, typed_event
from router.decoding.delta import Delta
from router.decoding.generation import Done
from router.dialects.responses.errors import param_of
from router.dialects.responses.output import Event
from router.dialects.responses.renderer import OutputRenderer
from router.dialects.responses.request import ResponsesRequest
from router.dialects.responses.response import ResponseObject, status_of
from router.errors import RouterError
from router.table import RouteTable


class ResponseAnswer(Answer):
    """The whole answer is what the last event of a stream holds."""

    id_prefix = "resp"

    def __init__(self, asked: ResponsesRequest, request: ChatRequest, table: RouteTable, key: str) -> None:
        super().__init__(request, table, key)
        self._response = ResponseObject(asked, self.id, self.model, table)
        self._output = OutputRenderer(asked.functions, seals_thoughts=asked.seals_thoughts)
        self._numbers = count()
        self._has_begun = False

    @property
    def framing(self) -> Framing:
        return Framing(error=lambda error, _: self._encoded(self._failure(error)), end=b"")

    async def body(self, streams: Streams) -> dict[str, Any]:
        async def add(_: int, item: Delta | Done) -> None:
            for _event in self._events(item):
                pass  # the events are what makes the items grow

        await for_each(self._shown(streams), add)
        return self._response.fields

    async def write_events(self, streams: Streams, write: Write) -> None:
        async def write_item(_: int, item: Delta | Done) -> None:
            if events := self._encoded(self._events(item)):
                await write(events)

        await for_each(self._shown(streams), write_item)

    def _events(self, item: Delta | Done) -> Iterator[Event]:
        yield from self._beginning()
        if isinstance(item, Done):
            yield from self._output.end(status_of(item))
            self._response.end(item, self._output.items)
            yield self._response.event()
            return
        for event in self._output.add(item):
            yield {**event, "routing": {"model": item.model}} if self._request.trace else event

    def _beginning(self) -> Iterator[Event]:
        """The first events; they wait until a model answers, since an error before that has a status."""
        if not self._has_begun:
            self._has_begun = True
            yield self._response.event("created")
            yield self._response.event("in_progress")

    def _failure(self, error: RouterError) -> Iterator[Event]:
        """The last events of a stream that fails. No item is done: some clients run a call that is."""
        yield from self._beginning()
        yield {"type": "error", "code": error.code, "message": error.message, "param": param_of(error)}
        self._output.give_up()
        self._response.fail(error, self._output.items)
        yield self._response.event()

    def _encoded(self, events: Iterable[Event]) -> bytes:
        return b"".join(map(self._numbered, events))

    def _numbered(self, event: Event) -> bytes:
        return typed_event({**event, "sequence_number": next(self._numbers)})
