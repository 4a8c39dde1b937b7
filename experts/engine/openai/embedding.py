"""An embedding model behind a URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from experts.engine.chunk import EngineChunk
from experts.engine.config import OpenAIConfig
from experts.engine.openai.engine import OpenAIEngine
from experts.engine.request import EngineRequest
from experts.engine.tasks import Embed
from experts.errors import InvalidCall

PROBE = "ping"


class OpenAIEmbeddingEngine(OpenAIEngine):
    """Has a server embed. A request without a task is a probe: the server embeds a word.

    Raises:
        RemoteMisconfigured: as `OpenAIEngine`.
    """

    def __init__(self, name: str, config: OpenAIConfig) -> None:
        # It has no turns that could be continued, so nothing is to be tested.
        super().__init__(name, config.model_copy(update={"continuation": "never"}))

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        if request.task is None:
            request = replace(request, messages=None, inputs=(PROBE,), task=Embed())
        elif not isinstance(request.task, Embed):
            raise InvalidCall("unsupported_task", "model", f"{self._name} only has embeddings")
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk
