"""The tasks of a model behind a URL, passed on to its server as OpenAI or vLLM has them."""

from __future__ import annotations

from typing import Any, TypeVar

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import OpenAIConfig
from experts.engine.openai.client import DETOKENIZE, TOKENIZE, RemoteClient
from experts.engine.openai.continuation_probe import open_turn
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
            case Embed() | None:
                raise InvalidCall("unsupported_task", "model", f"{self._name} has no embeddings")

    async def _post(self, path: str, fields: dict[str, Any], request: EngineRequest) -> dict[str, Any]:
        body = {"model": self._config.model, **fields}
        return await self._client.post(path, body, request.trace_headers)

    def _tokenized(self, reply: dict[str, Any], task: Tokenize) -> TokenizedPrompt:
        ids, texts = self._list(reply.get("tokens"), int), None
        if task.with_texts:
            texts = self._list(reply.get("token_strs"), str)
        return TokenizedPrompt(ids, texts, self._typed(reply.get("max_model_len"), int))

    def _list(self, value: object, kind: type[T]) -> tuple[T, ...]:
        return tuple(self._typed(item, kind) for item in self._typed(value, list))

    def _typed(self, value: object, kind: type[T]) -> T:
        if not isinstance(value, kind):
            raise RemoteMisconfigured(f"{self._name}: {self._config.url} answers in an unknown form")
        return value


def _tokenize_fields(request: EngineRequest, task: Tokenize) -> dict[str, Any]:
    asked = {"return_token_strs": True} if task.with_texts else {}
    if request.messages is None:
        return {**asked, "prompt": request.text, "add_special_tokens": task.add_special_tokens}
    asked |= chat_fields(request.chat) if request.chat else {}
    asked.pop("tool_choice", None)  # of an answer
    messages = openai_messages(request.messages)
    conversation = open_turn(messages, request.written) if request.written else {"messages": [*messages]}
    return {**asked, **conversation}
