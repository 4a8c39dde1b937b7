"""Send many questions to a running cluster, as a client does: over HTTP, with whole answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.client.chat import CONNECT_TIMEOUT_S, error_text
from cluster.errors import AskError
from cluster.own_api_key import authorization
from experts.learn.queries import Query

DEFAULT_CONCURRENCY = 16


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Attributes:
        writers: the models that were called for it, in order, including those that wrote nothing.
        spans: (model, text) for each part of the answer.
    """

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
    """Greedy answers of every model to every query, in the order of `queries`.

    At most `concurrency` requests are open at a time. No request is retried, because an evaluation must give
    every answer the same number of attempts. `progress` is called with (done, total, "answers").

    Raises:
        AskError: a query got no answer; the message names its place in the data. The other requests are
            cancelled.
    """
    # Query by query, so that all models work at the same time.
    requests = [(model, query) for query in queries for model in models]
    replies: list[Reply | None] = [None] * len(requests)
    # All workers share one iterator, so each takes the next request that is left.
    todo = iter(enumerate(requests))

    async def work(client: httpx.AsyncClient) -> None:
        for index, (model, query) in todo:
            replies[index] = await _ask(client, url, model, query, max_tokens)
            progress(sum(reply is not None for reply in replies), len(requests), "answers")

    async with _client(concurrency) as client:
        await _run_all([work(client) for _ in range(min(concurrency, len(requests)))])
    answered = [reply for reply in replies if reply is not None]
    return {model: answered[index :: len(models)] for index, model in enumerate(models)}


def _client(concurrency: int) -> httpx.AsyncClient:
    """Without a read timeout: the router's own deadlines end a stalled answer."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        trust_env=False,
        limits=httpx.Limits(max_connections=concurrency),
        headers=authorization(),
    )


async def _run_all(workers: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Raises the first worker's error as it is, after the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


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
    try:
        response = await client.post(f"{url.rstrip('/')}/v1/chat/completions", json=body)
    except (httpx.RequestError, httpx.InvalidURL) as error:
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
        return Reply(choice["message"]["content"], tuple(answer["usage_by_model"]), spans)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise AskError(
            f"{query.place}: {url} answers without a routing trace; give the URL of a router"
        ) from error
