"""Ask a running cluster one question, as any client would: over HTTP, streaming."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.api_key import authorization
from cluster.errors import AskError

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """Text as it arrives; `writer` is the model that wrote it, known only when a trace was asked for."""

    text: str
    writer: str | None


def ask(url: str, question: str, *, model: str | None = None, trace: bool = False) -> Iterator[AnswerPart]:
    """Stream the answer to one question. The server's own deadlines end a stalled one.

    Without `model`, the generalist answers, whatever its name.

    Raises:
        AskError: nobody answers, the cluster refuses, or the answer breaks off.
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
            yield from _parts(response.iter_lines())
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise AskError(f"{url} does not answer ({error}); run `etr up` or correct --url") from error


def _parts(lines: Iterator[str]) -> Iterator[AnswerPart]:
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise AskError(f"the answer broke off: {error_text(data)}")
        writer = (chunk.get("routing") or {}).get("model")
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                yield AnswerPart(text, writer)
    raise AskError("the answer broke off without an end; ask again")


def error_text(text: str) -> str:
    """The message of an OpenAI error body, or the body itself where it is none."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300] or "no reason given"
