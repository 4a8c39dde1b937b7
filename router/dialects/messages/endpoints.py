"""The endpoints of this dialect."""

from __future__ import annotations

from fastapi import Request, Response

from router.api.endpoints import Endpoints
from router.api.middleware import json_response
from router.dialects.messages.answer import MessageAnswer
from router.dialects.messages.request import CountTokensRequest, MessagesRequest


class MessageEndpoints:
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def create_message(self, request: Request) -> Response:
        """Answer a conversation, in Anthropic's dialect."""
        body = await self._endpoints.read(request, MessagesRequest)
        return await self._endpoints.answer(request, body.to_chat(), MessageAnswer)

    async def count_tokens(self, request: Request) -> Response:
        """Count the tokens of a prompt."""
        body = await self._endpoints.read(request, CountTokensRequest)
        num_tokens = await self._endpoints.count_tokens(request, body.to_chat())
        return json_response({"input_tokens": num_tokens})
