"""Ask a running cluster, as a client does: over HTTP, with a streamed answer."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from cluster.errors import AskError
from cluster.own_api_key import authorization

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A part of the answer, or of the thoughts before it.

    `writer` is the model that wrote it, or None if no trace was requested.
    """

    text: str
    writer: str | None
    is_thought: bool = False


@dataclass(frozen=True, slots=True)
class SpanTrace:
    """`probability`: with which the model was chosen; None if the meta did not hand over to it."""

    model: str
    num_tokens: int
    probability: float | None


@dataclass(frozen=True, slots=True)
class AnswerTrace:
    """The end of an answer of which a trace was requested."""

    spans: tuple[SpanTrace, ...]
    first_text_ms: float | None
    total_ms: float


def ask(
    url: str,
    messages: Sequence[Mapping[str, str]],
    *,
    model: str | None = None,
    routing: Mapping[str, Any] | None = None,
) -> Generator[AnswerPart | AnswerTrace]:
    """Stream the answer to a conversation. The router's deadlines end a stalled answer.

    Without `model`, the cluster's own model answers, whatever its name. `routing` is the API's extension.

    Raises:
        AskError: nothing answers at `url`, the cluster refuses the question, or the answer breaks off.
    """
    body: dict[str, Any] = {"messages": [*messages], "stream": True, "temperature": 0}
    if model is not None:
        body["model"] = model
    if routing:
        body["routing"] = routing
    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
    try:
        with (
            httpx.Client(timeout=timeout, trust_env=False, headers=authorization()) as client,
            client.stream("POST", f"{url.rstrip('/')}/v1/chat/completions", json=body) as response,
        ):
            if not response.is_success:
                response.read()
                raise AskError(f"{url} answers {response.status_code}: {error_text(response.text)}")
            # Not `iter_lines`, which also splits at U+2028 and U+0085; JSON strings may contain those.
            yield from _parts(event.data for event in EventSource(response).iter_sse())
    except SSEError as error:
        raise AskError(f"{url} does not stream its answer; give the URL of a router") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise AskError(f"{url} does not answer ({error}); run `etr up` or correct --url") from error


def _parts(events: Iterator[str]) -> Iterator[AnswerPart | AnswerTrace]:
    for data in events:
        if data == "[DONE]":
            return
        yield from _read_chunk(data)
    raise AskError("the answer broke off before its end; ask again")


def _read_chunk(data: str) -> list[AnswerPart | AnswerTrace]:
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise AskError(f"the answer broke off: {error_text(data)}")
        routing = chunk.get("routing") or {}
        deltas = [choice["delta"] for choice in chunk["choices"]]
        return [*_texts(deltas, routing.get("model")), *_traces(routing)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AskError("the answer is not what an OpenAI server sends; give the URL of a router") from error


def _texts(deltas: Sequence[Mapping[str, Any]], writer: str | None) -> Iterator[AnswerPart]:
    for delta in deltas:
        if thought := delta.get("reasoning"):
            yield AnswerPart(thought, writer, is_thought=True)
        if text := delta.get("content"):
            yield AnswerPart(text, writer)


def _traces(routing: Mapping[str, Any]) -> Iterator[AnswerTrace]:
    if "spans" in routing:
        spans = (
            SpanTrace(span["model"], span["num_tokens"], span["probability"]) for span in routing["spans"]
        )
        timing = routing["timing"]
        yield AnswerTrace(tuple(spans), timing["first_text_ms"], timing["total_ms"])


def error_text(text: str) -> str:
    """The message of an OpenAI error body, or the start of the body itself if it is not one."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300] or "no reason given"
