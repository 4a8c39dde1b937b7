"""The endpoints of this dialect."""

from __future__ import annotations

from functools import partial

from fastapi import Request, Response

from router.api.endpoints import Endpoints
from router.api.middleware import json_response
from router.dialects.responses.answer import ResponseAnswer
from router.dialects.responses.request import ResponsesRequest


class ResponsesEndpoints:
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def create_response(self, request: Request) -> Response:
        """Answer a conversation of items. Nothing is stored."""
        asked = await self._endpoints.read(request, ResponsesRequest)
        return await self._endpoints.answer(request, asked.to_chat(), partial(ResponseAnswer, asked))

    async def count_input_tokens(self, request: Request) -> Response:
        """Count the tokens of the input. The model that would be called first is asked."""
        asked = await self._endpoints.read(request, ResponsesRequest)
        num_tokens = await self._endpoints.count_tokens(request, asked.to_chat())
        return json_response({"object": "response.input_tokens", "input_tokens": num_tokens})
