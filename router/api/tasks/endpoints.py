"""The endpoints that have one model do something else than answer. None of them is routed."""

from __future__ import annotations

from fastapi import Request, Response

from router.api.endpoints import Endpoints
from router.api.middleware import json_response
from router.api.tasks.requests import DetokenizeRequest, TokenizeRequest
from router.decoding.policy import Routing, resolve
from router.errors import ModelFailed
from router.prompt import Prompt
from router.tasks import Detokenize


class TaskEndpoints:
    """By default, and for the name of the whole cluster, the meta is asked."""

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
