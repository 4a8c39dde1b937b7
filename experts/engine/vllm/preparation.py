"""From a request to what vLLM runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from vllm.lora.request import LoRARequest

from experts.chat_messages import picture_urls
from experts.engine.adapter_slots import LoadedAdapter
from experts.engine.chunk import EngineChunk
from experts.engine.encoding.encoded_request import EncodedRequest
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.encoding.tokens import perform, tokenized
from experts.engine.request import EngineRequest
from experts.engine.sampling.rules import rules_of
from experts.engine.tasks import Tokenize
from experts.engine.vllm.adapters import VllmAdapters
from experts.engine.vllm.decision_store import DecisionStore
from experts.engine.vllm.grammars import WorkerGrammars
from experts.engine.vllm.pictures import PictureReader
from experts.engine.vllm.request import RunningRequest
from experts.errors import InvalidPrompt


@dataclass(frozen=True)
class RequestPreparation:
    """What all requests of an engine are prepared with. Without `pictures`, the model reads text only."""

    tokenizer: ModelTokenizer
    grammars: WorkerGrammars
    adapters: VllmAdapters
    decisions: DecisionStore
    pictures: PictureReader | None

    async def running(
        self, request: EngineRequest, key: str, adapter: LoadedAdapter | None
    ) -> RunningRequest:
        """`key` names the request in the decision store. Raises InvalidCall."""
        received_s, tokenizer, rules = time.monotonic(), self.tokenizer, None
        urls = picture_urls(request.messages or ())
        if urls:
            request = _with_whole_pictures(request)
        encoded = await asyncio.to_thread(tokenizer.encode, request)
        if encoded.request.sampling is not None:
            rules = await asyncio.to_thread(rules_of, encoded, encoded.request.sampling, tokenizer)
            await self.grammars.prepare(rules)
        num_resumed = 0
        if adapter is not None and encoded.request.resumed is not None:
            num_resumed = await asyncio.to_thread(tokenizer.num_resumed, encoded.request, encoded.prompt)
        seen = None
        if urls and self.pictures is not None:
            seen = await self.pictures.read(encoded.prompt, urls, request.cache_salt)
            encoded = tokenizer.lengthened(encoded, seen["prompt_token_ids"])
        lora = self._lora_request(adapter, encoded, num_resumed) if adapter else None
        max_tokens = tokenizer.max_new_tokens(len(encoded.prompt), encoded.request)
        rules = rules and replace(rules, max_tokens=max_tokens)
        return RunningRequest(
            encoded, key, max_tokens, rules, tokenizer, self.decisions, received_s, lora, seen
        )

    async def perform(self, request: EngineRequest) -> EngineChunk:
        """The result of the request's task. Raises InvalidCall."""
        chunk = await asyncio.to_thread(perform, self.tokenizer, request)
        urls = picture_urls(request.messages or ())
        if not (urls and self.pictures and chunk.tokenized and isinstance(request.task, Tokenize)):
            return chunk
        seen = await self.pictures.read(chunk.tokenized.ids, urls, request.cache_salt)
        return tokenized(self.tokenizer, request.task, seen["prompt_token_ids"])

    def _lora_request(self, adapter: LoadedAdapter, encoded: EncodedRequest, num_resumed: int) -> LoRARequest:
        before = encoded.prompt[: len(encoded.prompt) - num_resumed]
        return self.adapters.request(adapter, before, is_at_start=not encoded.request.written)


def _with_whole_pictures(request: EngineRequest) -> EngineRequest:
    """No adapter takes over in place: its start would be counted before each picture has all its tokens."""
    if request.chat is not None and request.chat.truncate_prompt_tokens is not None:
        raise InvalidPrompt("truncate_prompt_tokens", "a prompt with pictures is not cut; remove it")
    return request.with_adapters(())
