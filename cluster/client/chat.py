"""Send one question to a running cluster, as a client does: over HTTP, with a streamed answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from cluster.errors import AskError
from cluster.own_api_key import authorization

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A part of the answer. `writer` is the model that wrote it, or None if no trace was requested."""

    text: str
    writer: str | None


def ask(url: str, question: str, *, model: str | None = None, trace: bool = False) -> Iterator[AnswerPart]:
    """Stream the answer to one question. The router's deadlines end a stalled answer.

    Without `model`, the cluster's own model answers, whatever its name.

    Raises:
        AskError: nothing answers at `url`, the cluster refuses the question, or the answer breaks off.
    """
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "temperature": 0,
    }
    if model is not None:
        body["model"] = model
    if trace:
        body["routing"] = {"trace": True}
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


def _parts(events: Iterator[str]) -> Iterator[AnswerPart]:
    for data in events:
        if data == "[DONE]":
            return
        yield from _read_chunk(data)
    raise AskError("the answer broke off before its end; ask again")


def _read_chunk(data: str) -> list[AnswerPart]:
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise AskError(f"the answer broke off: {error_text(data)}")
        writer = (chunk.get("routing") or {}).get("model")
        texts = [choice["delta"].get("content") for choice in chunk["choices"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AskError("the answer is not what an OpenAI server sends; give the URL of a router") from error
    return [AnswerPart(text, writer) for text in texts if text]


def error_text(text: str) -> str:
    """The message of an OpenAI error body, or the start of the body itself if it is not one."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300] or "no reason given"
