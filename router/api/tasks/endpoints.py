"""The endpoints that have one model do something else than answer. None of them is routed."""

from __future__ import annotations

import asyncio
import sys
from array import array
from base64 import b64encode

from fastapi import Request, Response

from router.api.endpoints import Endpoints
from router.api.middleware import json_response
from router.api.tasks.embedding_request import EmbeddingsRequest
from router.api.tasks.requests import DetokenizeRequest, TokenizeRequest
from router.decoding.policy import Routing, resolve
from router.errors import InvalidRequest, ModelFailed, UnknownModel
from router.model_port import ModelChunk
from router.prompt import Prompt
from router.table import RouteTable
from router.tasks import Detokenize


class TaskEndpoints:
    """For tokens, by default and for the name of the whole cluster, the meta is asked."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def tokenize(self, request: Request) -> Response:
        """Get the tokens of a prompt for one model."""
        body = await self._endpoints.read(request, TokenizeRequest)
        chat = body.to_chat()
        table = self._endpoints.table(request, chat)
        prompt = Prompt(text=body.prompt) if chat is None else chat.prompts()[0]
        model = resolve(table, body.model, Routing()).writer
        chunk = await self._endpoints.perform(request, table, model, prompt, body.task)
        if (found := chunk.tokenized) is None:
            raise ModelFailed(f"{model} did not say what tokens the prompt has")
        fields = {"count": len(found.ids), "max_model_len": found.max_model_len}
        return json_response({**fields, "tokens": found.ids, "token_strs": found.texts})

    async def detokenize(self, request: Request) -> Response:
        """Get the text of tokens of one model."""
        body = await self._endpoints.read(request, DetokenizeRequest)
        table = self._endpoints.table(request)
        model = resolve(table, body.model, Routing()).writer
        chunk = await self._endpoints.perform(request, table, model, body.prompt, Detokenize())
        return json_response({"prompt": chunk.text})

    async def embed(self, request: Request) -> Response:
        """Get a vector for each input from an embedding model."""
        body = await self._endpoints.read(request, EmbeddingsRequest)
        table, prompt = self._endpoints.table(request), body.prompt
        model = _embedder(table, body.model)
        chunk = await self._endpoints.perform(request, table, model, prompt, body.task)
        if len(chunk.vectors) != len(prompt.inputs or ()):
            raise ModelFailed(f"{model} did not give a vector for each input")
        # In a thread: a thousand vectors are megabytes of JSON.
        return await asyncio.to_thread(_embedding_list, body, chunk)


def _embedder(table: RouteTable, model: str) -> str:
    """Raises UnknownModel, and InvalidRequest if the model writes answers."""
    if (name := table.embedder(model)) is not None:
        return name
    known = ", ".join(f"{table.name}/{name}" for name in table.embedders) or "none"
    if model in table.model_ids:
        raise InvalidRequest(f"model '{model}' has no embeddings; embedding models: {known}", "model")
    raise UnknownModel(f"model '{model}' does not exist; embedding models: {known}", "model")


def _embedding_list(body: EmbeddingsRequest, chunk: ModelChunk) -> Response:
    to_json = _base64 if body.encoding_format == "base64" else _floats
    data = [
        {"object": "embedding", "index": index, "embedding": to_json(vector)}
        for index, vector in enumerate(chunk.vectors)
    ]
    num_tokens = chunk.num_prompt_tokens or 0
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return json_response({"object": "list", "model": body.model, "data": data, "usage": usage})


def _base64(vector: bytes) -> str:
    return b64encode(vector).decode()


def _floats(vector: bytes) -> list[float]:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
