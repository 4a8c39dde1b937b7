"""The endpoint /v1/responses."""

from __future__ import annotations

from functools import partial

from fastapi import Request, Response

from router.api.endpoints import Endpoints
from router.dialects.responses.answer import ResponseAnswer
from router.dialects.responses.request import ResponsesRequest


class ResponsesEndpoint:
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def create_response(self, request: Request) -> Response:
        """Answer a conversation of items. Nothing is stored."""
        asked = await self._endpoints.read(request, ResponsesRequest)
        return await self._endpoints.answer(request, asked.to_chat(), partial(ResponseAnswer, asked))
