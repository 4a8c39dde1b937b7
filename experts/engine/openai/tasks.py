"""The tasks of a model behind a URL, passed on to its server as OpenAI or vLLM has them."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import OpenAIConfig
from experts.engine.openai.client import DETOKENIZE, EMBEDDINGS, TOKENIZE, RemoteClient
from experts.engine.openai.continuation_probe import open_turn
from experts.engine.openai.embedding_bytes import embedding_bytes
from experts.engine.openai.request_body import chat_fields, openai_messages
from experts.engine.request import EngineRequest
from experts.engine.tasks import Detokenize, Embed, Tokenize, TokenizedPrompt
from experts.errors import InvalidCall, RemoteMisconfigured

T = TypeVar("T")


class RemoteTasks:
    """`name` is the model's own, for messages."""

    def __init__(self, name: str, config: OpenAIConfig, client: RemoteClient) -> None:
        self._name = name
        self._config = config
        self._client = client

    async def perform(self, request: EngineRequest) -> EngineChunk:
        """The result of the request's task.

        Raises:
            InvalidCall: the server refuses the request, or knows no such task.
            RemoteFault: the server cannot be used, at all or at present.
        """
        match request.task:
            case Tokenize() as task:
                reply = await self._post(TOKENIZE, _tokenize_fields(request, task), request)
                return EngineChunk(tokenized=self._tokenized(reply, task), finish=FinishReason.STOP)
            case Detokenize():
                reply = await self._post(DETOKENIZE, {"tokens": list(request.ids or ())}, request)
                return EngineChunk(text=self._typed(reply.get("prompt"), str), finish=FinishReason.STOP)
            case Embed() as task:
                reply = await self._post(EMBEDDINGS, _embedding_fields(request, task), request)
                return await asyncio.to_thread(self._embedded, reply, len(request.inputs or ()))
            case None:
                raise InvalidCall("unsupported_task", None, "the request has no task")

    async def _post(self, path: str, fields: dict[str, Any], request: EngineRequest) -> dict[str, Any]:
        body = {"model": self._config.model, **fields}
        return await self._client.post(path, body, request.trace_headers)

    def _tokenized(self, reply: dict[str, Any], task: Tokenize) -> TokenizedPrompt:
        ids, texts = self._list(reply.get("tokens"), int), None
        if task.with_texts:
            texts = self._list(reply.get("token_strs"), str)
        return TokenizedPrompt(ids, texts, self._typed(reply.get("max_model_len"), int))

    def _embedded(self, reply: dict[str, Any], num_inputs: int) -> EngineChunk:
        data = self._list(reply.get("data"), dict)
        places = [self._typed(each.get("index", place), int) for place, each in enumerate(data)]
        if sorted(places) != [*range(num_inputs)]:
            raise self._unknown_form()
        by_index = {place: each.get("embedding") for place, each in zip(places, data, strict=True)}
        try:
            vectors = tuple(embedding_bytes(by_index[index]) for index in range(num_inputs))
        except ValueError as error:
            raise self._unknown_form() from error
        usage = reply.get("usage")
        num_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return EngineChunk(
            vectors=vectors,
            num_prompt_tokens=num_tokens if type(num_tokens) is int else None,
            finish=FinishReason.STOP,
        )

    def _list(self, value: object, kind: type[T]) -> tuple[T, ...]:
        return tuple(self._typed(item, kind) for item in self._typed(value, list))

    def _typed(self, value: object, kind: type[T]) -> T:
        if not isinstance(value, kind):
            raise self._unknown_form()
        return value

    def _unknown_form(self) -> RemoteMisconfigured:
        return RemoteMisconfigured(f"{self._name}: {self._config.url} answers in an unknown form")


def _embedding_fields(request: EngineRequest, task: Embed) -> dict[str, Any]:
    """Asks for base64, as OpenAI's own clients do; servers that do not know it send lists."""
    dimensions = {} if task.dimensions is None else {"dimensions": task.dimensions}
    return {"input": list(request.inputs or ()), "encoding_format": "base64", **dimensions}


def _tokenize_fields(request: EngineRequest, task: Tokenize) -> dict[str, Any]:
    asked = {"return_token_strs": True} if task.with_texts else {}
    if request.messages is None:
        return {**asked, "prompt": request.text, "add_special_tokens": task.add_special_tokens}
    asked |= chat_fields(request.chat) if request.chat else {}
    asked.pop("tool_choice", None)  # of an answer
    messages = openai_messages(request.messages)
    conversation = open_turn(messages, request.written) if request.written else {"messages": [*messages]}
    return {**asked, **conversation}
