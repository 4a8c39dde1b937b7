"""Ask a running cluster many questions at once, as a client would: over HTTP, whole answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.api_key import authorization
from cluster.ask import CONNECT_TIMEOUT_S, error_text
from cluster.errors import AskError
from experts.learn.queries import Query

DEFAULT_CONCURRENCY = 16


@dataclass(frozen=True)
class Reply:
    """A whole answer. `writers`: the models that were called for it, in order, also those that wrote
    nothing; `spans`: which model wrote what."""

    text: str
    writers: tuple[str, ...]
    spans: tuple[tuple[str, str], ...]


async def ask_models(
    url: str,
    models: Sequence[str],
    queries: Sequence[Query],
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    *,
    max_tokens: int | None = None,
) -> dict[str, list[Reply]]:
    """Greedy answers of every model to every query, in order, at most `concurrency` at a time.

    Nothing is asked twice: an evaluation in which some answers had more tries than others is none.

    Raises:
        AskError: naming the place of the first query that got no answer; the others are given up.
    """
    replies: dict[str, dict[int, Reply]] = {model: {} for model in models}
    num_asked = len(models) * len(queries)
    # One iterator for all workers: whoever is free takes the next.
    todo = iter([(model, index) for model in models for index in range(len(queries))])
    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
    limits = httpx.Limits(max_connections=concurrency)
    headers = authorization()
    async with httpx.AsyncClient(timeout=timeout, trust_env=False, limits=limits, headers=headers) as client:

        async def work(todo: Iterator[tuple[str, int]]) -> None:
            for model, index in todo:
                replies[model][index] = await _ask(client, url, model, queries[index], max_tokens)
                progress(sum(map(len, replies.values())), num_asked, "answers")

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(concurrency, num_asked)):
                    workers.create_task(work(todo))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
    return {model: [own[index] for index in range(len(queries))] for model, own in replies.items()}


async def _ask(
    client: httpx.AsyncClient, url: str, model: str, query: Query, max_tokens: int | None
) -> Reply:
    body: dict[str, Any] = {
        "model": model,
        "messages": [dict(message) for message in query.messages],
        "temperature": 0,
        "routing": {"trace": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    try:  # the server's own deadlines end a stalled answer
        response = await client.post(f"{url.rstrip('/')}/v1/chat/completions", json=body)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise AskError(
            f"{query.place}: {url} does not answer ({reason}); run `etr up` or correct --url"
        ) from error
    if not response.is_success:
        reason = error_text(response.text)
        raise AskError(f"{query.place}: {url} answers {response.status_code} for '{model}': {reason}")
    try:
        answer = response.json()
        choice = answer["choices"][0]
        spans = tuple((span["model"], span["text"]) for span in choice["routing"]["spans"])
        return Reply(choice["message"]["content"], tuple(answer["usage"]["models"]), spans)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise AskError(f"{query.place}: {url} answers without a trace; give the URL of a router") from error
