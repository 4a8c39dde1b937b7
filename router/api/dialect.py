"""What the dialects of the API differ in besides their requests: how they render answers and spell errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from router.api.cache_salt import tells_cache
from router.api.choice import without
from router.api.completion_models import ResponseModel
from router.api.generations import generations
from router.api.requests import AnswerRequest
from router.api.response_models import ErrorResponse
from router.api.sse import Framing, Write, envelope
from router.decisions.recent_answers import new_answer_id
from router.decoding.delta import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from router.decoding.generation import Done
from router.errors import RouterError
from router.table import RouteTable

Streams = Sequence[AsyncGenerator[Delta | Done, None]]  # one stream per choice


@dataclass(frozen=True, slots=True)
class Dialect:
    """What all responses below the paths of one API have in common.

    `envelope` makes the body of an error, from the error and the request's id. `request_id_header` has this
    id too, besides `x-request-id`. `has_done`: a stream ends with `[DONE]`.
    """

    envelope: Callable[[RouterError, str], dict[str, Any]]
    error_model: type[ResponseModel]
    request_id_header: str | None = None
    has_done: bool = False


OPENAI = Dialect(lambda error, request_id: envelope(error), ErrorResponse, has_done=True)


class Answer(ABC):
    """Renders what the generations of one request produce. All parts repeat the same id and model.

    Raises:
        RequestError: as `generations`.
    """

    id_prefix: ClassVar[str]

    def __init__(self, request: AnswerRequest, table: RouteTable, key: str = "") -> None:
        self.id = new_answer_id(self.id_prefix)
        self.generations = generations(request, table, self.id, key)
        self.model = request.model or table.name
        self._request = request
        self._tells_cache = tells_cache(table)

    @property
    def framing(self) -> Framing:
        """What a stream has besides the events of `write_events`."""
        return Framing()

    @abstractmethod
    async def body(self, streams: Streams) -> dict[str, Any]:
        """The whole answer, once all streams have ended."""

    @abstractmethod
    async def write_events(self, streams: Streams, write: Write) -> None:
        """Write the answer as server-sent events while the streams produce it."""

    def _shown(self, streams: Streams) -> Streams:
        """What the client wants to see of them."""
        writes_nothing = self._request.writes_nothing
        if not writes_nothing and not self._request.hides_reasoning:  # nearly always
            return streams
        hidden = (TextDelta, ReasoningDelta, ToolCallDelta) if writes_nothing else (ReasoningDelta,)
        return [without(hidden, stream, writes_nothing=writes_nothing) for stream in streams]
