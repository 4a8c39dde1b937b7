"""The default engine: Hugging Face's continuous batching, with the extended head."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import replace

import torch
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from experts.adapter import Invocation
from experts.engine.adapter_slots import AdapterSlots, LoadedAdapter, num_slots
from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import TransformersConfig
from experts.engine.encoding.encoded_request import EncodedRequest
from experts.engine.encoding.tokens import perform
from experts.engine.grammar.compiler import GrammarCompiler
from experts.engine.hf import batching
from experts.engine.hf.adapters import BatchAdapters
from experts.engine.hf.in_place import InPlaceExperts
from experts.engine.hf.loader import load
from experts.engine.hf.logits_processor import RoutingLogitsProcessor
from experts.engine.hf.outputs import stream_outputs
from experts.engine.hf.prefix_cache import Writer
from experts.engine.hf.prompt_logprobs import prompt_logprobs
from experts.engine.hf.request import RunningRequest
from experts.engine.hf.self_test import self_test
from experts.engine.request import EngineRequest
from experts.engine.sampling.logprobs import IdLogprobs
from experts.engine.sampling.routing import RequestState
from experts.engine.sampling.rules import rules_of
from experts.engine.sampling.token_chooser import make_chooser
from experts.errors import EngineDead
from experts.head import ExpertTable, ExtendedHead
from experts.shadow import ShadowToken
from experts.token import ExpertToken


class TransformersEngine:
    """Runs one model; implements `AdapterEngine`. Create it and use it on one event loop.

    Raises:
        ModelLoadError: the model cannot be loaded, or continuous batching cannot run it.
        TemplateError: its chat template cannot hold a conversation.
    """

    def __init__(
        self,
        source: str,
        config: TransformersConfig,
        revision: str | None = None,
        *,
        trust_remote_code: bool = False,
        adapter: str | None = None,
    ) -> None:
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        self._config = config
        loaded = load(source, config, revision, trust_remote_code=trust_remote_code, adapter=adapter)
        tokenizer = loaded.tokenizer
        self._name, self._model, self._fingerprint = tokenizer.name, loaded.model, loaded.fingerprint
        self._head = ExtendedHead(loaded.model)
        decoder, end_id = tokenizer.marked_decoder, tokenizer.end_id
        self._logits_processor = RoutingLogitsProcessor(self._head, decoder, end_id)
        self._grammars = GrammarCompiler(tokenizer.decoder, end_id)
        batching.prepare(loaded.model)
        self_test(self._name, loaded.model, tokenizer.hf_tokenizer)
        self._adapters = AdapterSlots(config.max_adapters)
        slots = num_slots(config.max_adapters)
        self._batch_adapters = BatchAdapters(loaded.model, slots, config.adapter_rank)
        adapters = self._batch_adapters if config.max_adapters else None
        self._manager, longest = batching.start(
            self._name, loaded.model, config, tokenizer.max_model_len, self._logits_processor, adapters
        )
        self._cache = batching.kv_cache(self._manager)
        self._cache.writer_of = self._writer
        self._cache.on_found = self._logits_processor.found_in_cache
        self._tokenizer = tokenizer.shortened_to(longest)
        self._request_numbers = itertools.count()
        self._num_tokens, self._is_closing, self._scoring = 0, False, threading.Lock()

    @property
    def keeps_prefixes(self) -> bool:
        return bool(self._cache.use_prefix_sharing)

    @property
    def vocabulary(self) -> str:
        return self._tokenizer.vocabulary

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        if request.task is not None:
            yield await asyncio.to_thread(perform, self._tokenizer, request)
            return
        received_s = time.perf_counter()
        with (
            self._adapters.using(request.adapter) as adapter,
            self._adapters.using_loaded(request.in_place.values()) as loaded,
        ):
            request = request.with_adapters(loaded)
            encoded = await asyncio.to_thread(self._tokenizer.encode, request)
            running = await self._running_request(encoded, received_s)
            in_place = {expert: loaded[name] for expert, name in request.in_place.items()}
            with self._registered(running, adapter, in_place) as request_id:
                await self._score_prompt(request_id, running)
                outputs = stream_outputs(self._name, self._manager, request_id, running)
                async with aclosing(outputs):
                    async for output in outputs:
                        for chunk in self._to_chunks(output, running):
                            yield chunk

    async def load_adapter(self, name: str, folder: str, invocation: Invocation | None = None) -> None:
        await self._adapters.load(self._batch_adapters, name, folder, invocation)

    async def unload_adapter(self, name: str) -> None:
        self._adapters.unload(self._batch_adapters, name)

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        for token in (*tokens, *(shadow.token for shadow in shadows)):
            token.require_meta(self._name, self._fingerprint, self._head.dim)
        await asyncio.to_thread(self._install, ExpertTable.of(table_version, tokens, self._head.dim, shadows))

    async def check(self) -> None:
        error = self._manager.background_thread_status.fatal_error
        if error is not None or not self._manager.is_running():
            # Only the error's type: its message may quote a prompt, and this one reaches foreign logs.
            cause = type(error).__name__ if error else "no error"
            raise EngineDead(f"{self._name}: the generation loop has stopped ({cause})")
        silence_s = self._logits_processor.silence_s
        if silence_s > self._config.stall_s:
            raise EngineDead(f"{self._name}: no token for {silence_s:.0f} s although requests are waiting")

    def stats(self) -> EngineStats:
        batch_processor = self._manager.batch_processor
        in_flight = self._logits_processor.num_tokens_in_flight
        if batch_processor is None:
            return EngineStats(0, 0, 0.0, 0, in_flight)
        num_running = len(batch_processor.scheduler.active_requests)
        num_waiting = max(0, self._logits_processor.num_requests - num_running)
        cache_use = 1.0 - self._cache.compute_free_capacity()
        kept, num_found = self._cache.kept, self._cache.num_found_tokens
        return EngineStats(num_running, num_waiting, cache_use, self._num_tokens, in_flight, kept, num_found)

    async def close(self) -> None:
        self._is_closing = True
        self._grammars.close()
        await self._adapters.close()
        await asyncio.to_thread(self._manager.stop, hard_stop=True)

    @contextmanager
    def _registered(
        self, running: RunningRequest, adapter: LoadedAdapter | None, in_place: Mapping[str, LoadedAdapter]
    ) -> Iterator[str]:
        """Yields an id for the library, under which each step finds what it needs for the request."""
        state, request = running.state, running.state.request
        # The caller's own id occurs twice if a request is retried while its first attempt is still ending.
        request_id = f"{request.request_id}#{next(self._request_numbers)}"
        num_streams = self._config.max_streams
        experts = (
            InPlaceExperts(self._batch_adapters, in_place, self._cache, num_streams) if in_place else None
        )
        self._logits_processor.add(request_id, state, experts)
        if adapter is not None:
            is_at_start = not request.written
            self._batch_adapters.apply(request_id, adapter, running.found, is_at_start=is_at_start)
        try:
            yield request_id
        finally:
            self._logits_processor.remove(request_id)
            self._batch_adapters.remove_request(request_id)

    def _writer(self, request_id: str) -> Writer | None:
        # In this order: a request that ends meanwhile leaves the processor first, then its adapter.
        writer, request = self._batch_adapters.writer(request_id), self._logits_processor.request(request_id)
        return None if request is None else replace(writer, salt=request.cache_salt or "")

    async def _running_request(self, encoded: EncodedRequest, received_s: float) -> RunningRequest:
        request, prompt = encoded.request, encoded.prompt
        max_tokens = self._tokenizer.max_new_tokens(len(prompt), request)
        seed = request.seed if request.seed is not None else secrets.randbits(48)
        thoughts = encoded.thoughts.tracker() if encoded.thoughts else None
        state = RequestState(request, seed, len(prompt) + max_tokens, thoughts=thoughts)
        if request.sampling is not None:
            rules = await asyncio.to_thread(rules_of, encoded, request.sampling, self._tokenizer)
            state.chooser = await make_chooser(rules, prompt, self._grammars, self._tokenizer.marked_decoder)
        num_resumed = 0
        if request.adapter is not None and request.resumed is not None:
            num_resumed = await asyncio.to_thread(self._tokenizer.num_resumed, request, prompt)
        found = prompt[: len(prompt) - num_resumed]
        return RunningRequest(state, encoded, max_tokens, self._tokenizer, received_s, found)

    async def _score_prompt(self, request_id: str, running: RunningRequest) -> None:
        """Set the log-probabilities of the prompt, if they are asked for."""
        options = running.state.request.sampling
        if options is not None and options.num_prompt_logprobs is not None:
            found = await asyncio.to_thread(
                self._prompt_logprobs, request_id, running.encoded.prompt, options.num_prompt_logprobs
            )
            running.prompt_logprobs = tuple(each.spelled(self._tokenizer.decoder) for each in found)

    def _prompt_logprobs(self, request_id: str, prompt: Sequence[int], num_top: int) -> list[IdLogprobs]:
        with self._scoring, self._paused():  # several threads may hold the pause
            self._batch_adapters.begin_alone(request_id, len(prompt))
            return prompt_logprobs(self._model, self._head, prompt, num_top)

    def _to_chunks(self, output: GenerationOutput, running: RunningRequest) -> Iterator[EngineChunk]:
        if output.status is RequestStatus.FAILED:
            if not self._is_closing:
                # Not the error itself, which may quote a prompt; the replica's log has its traceback.
                raise EngineDead(f"{self._name}: the generation loop failed")
            yield EngineChunk(finish=FinishReason.CANCELLED)
            return
        for chunk in running.to_chunks(output):
            self._num_tokens += len(chunk.token_ids)
            yield chunk

    def _install(self, table: ExpertTable) -> None:
        with self._paused():
            # Two tables may arrive in either order.
            if table.table_version >= self._head.table.table_version:
                self._head.install(table)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """No step runs inside. Blocks; not for the event loop."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._manager.pause())
            except RuntimeError as error:
                raise EngineDead(f"{self._name}: the generation loop has stopped") from error
            yield
