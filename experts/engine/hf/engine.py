"""The default engine: Hugging Face's continuous batching, with the extended head."""

from __future__ import annotations

import asyncio
import itertools
import queue
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from experts.engine.adapter_slots import AdapterSlots, LoadedAdapter, num_slots
from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import TransformersConfig
from experts.engine.detokenizer import IncrementalDetokenizer
from experts.engine.hf import batching
from experts.engine.hf.adapters import BatchAdapters
from experts.engine.hf.loader import load
from experts.engine.hf.logits_processor import RoutingLogitsProcessor
from experts.engine.hf.self_test import self_test
from experts.engine.request import EngineRequest
from experts.engine.routing import RequestState
from experts.errors import EngineDead
from experts.head import ExpertTable, ExtendedHead
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
        self._name = tokenizer.name
        self._head = ExtendedHead(loaded.model)
        self._fingerprint = loaded.fingerprint
        end_id = min(tokenizer.stop_ids)
        self._logits_processor = RoutingLogitsProcessor(self._head, tokenizer.decoder, end_id)
        batching.prepare(loaded.model)
        self_test(self._name, loaded.model, tokenizer.hf_tokenizer)
        self._adapters = AdapterSlots(config.max_adapters)
        slots = num_slots(config.max_adapters)
        self._batch_adapters = BatchAdapters(loaded.model, slots, config.adapter_rank)
        self._manager, longest = batching.start(
            self._name,
            loaded.model,
            config,
            tokenizer.max_model_len,
            self._logits_processor,
            self._batch_adapters if config.max_adapters else None,
        )
        self._tokenizer = tokenizer.shortened_to(longest)
        self._request_numbers = itertools.count()
        self._num_tokens, self._is_closing = 0, False

    @property
    def keeps_prefixes(self) -> bool:
        return batching.keeps_prefixes(self._manager)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        received_s = time.perf_counter()
        prompt = await asyncio.to_thread(self._tokenizer.encode, request)
        max_tokens = self._tokenizer.max_new_tokens(len(prompt), request)
        seed = request.seed if request.seed is not None else secrets.randbits(48)
        state = RequestState(request, seed, num_tokens=len(prompt) + max_tokens)
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        detokenizer = IncrementalDetokenizer(self._tokenizer.decoder, prompt)
        is_first, is_finished = True, False
        with self._adapters.using(request.adapter) as adapter, self._registered(state, adapter) as request_id:
            try:
                self._submit(request_id, prompt, max_tokens, outputs)
                while not is_finished:
                    output = await _latest(outputs)
                    is_finished = output.is_finished()
                    chunk = self._to_chunk(output, state, detokenizer)
                    if is_first:
                        chunk = self._with_first_fields(chunk, output, len(prompt), received_s)
                    yield chunk
                    is_first = False
            finally:
                if not is_finished:
                    self._cancel(request_id)

    async def load_adapter(self, name: str, folder: str) -> None:
        await self._adapters.load(self._batch_adapters, name, folder)

    async def unload_adapter(self, name: str) -> None:
        self._adapters.unload(self._batch_adapters, name)

    async def install(self, table_version: int, tokens: Sequence[ExpertToken]) -> None:
        for token in tokens:
            token.require_meta(self._name, self._fingerprint, self._head.dim)
        await asyncio.to_thread(self._install, ExpertTable.of(table_version, tokens, self._head.dim))

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
        free = float(batch_processor.cache.compute_free_capacity()) if num_running else 1.0
        num_waiting = max(0, self._logits_processor.num_requests - num_running)
        return EngineStats(num_running, num_waiting, 1.0 - free, self._num_tokens, in_flight)

    async def close(self) -> None:
        self._is_closing = True
        await self._adapters.close()
        await asyncio.to_thread(self._manager.stop, hard_stop=True)

    @contextmanager
    def _registered(self, state: RequestState, adapter: LoadedAdapter | None) -> Iterator[str]:
        """Yields an id for the library, under which each step finds what it needs for the request."""
        # The caller's own id occurs twice if a request is retried while its first attempt is still ending.
        request_id = f"{state.request.request_id}#{next(self._request_numbers)}"
        self._logits_processor.add(request_id, state)
        if adapter is not None:
            self._batch_adapters.add_request(request_id, adapter)
        try:
            yield request_id
        finally:
            self._logits_processor.remove(request_id)
            self._batch_adapters.remove_request(request_id)

    def _submit(
        self, request_id: str, prompt: list[int], max_tokens: int, outputs: asyncio.Queue[GenerationOutput]
    ) -> None:
        # The manager would refuse the request too, but with a warning that contains ids of the prompt.
        if self._manager.background_thread_status.can_accept_new_requests() is not None:
            raise self._not_accepting()
        self._manager.register_result_handler(request_id, outputs.put_nowait)
        accepted = self._manager.add_request(
            prompt,
            request_id=request_id,
            max_new_tokens=max_tokens,
            streaming=True,
            eos_token_id=list(self._tokenizer.stop_ids),
        )
        if accepted is None:
            raise self._not_accepting()

    def _not_accepting(self) -> EngineDead:
        return EngineDead(f"{self._name}: the generation loop accepts no requests")

    def _to_chunk(
        self, output: GenerationOutput, state: RequestState, detokenizer: IncrementalDetokenizer
    ) -> EngineChunk:
        if output.status is RequestStatus.FAILED:
            if not self._is_closing:
                # Not the error itself, which may quote a prompt; the replica's log has its traceback.
                raise EngineDead(f"{self._name}: the generation loop failed")
            return EngineChunk(finish=FinishReason.CANCELLED)
        finish = self._finish(output, state)
        tokens = output.generated_tokens[: -1 if finish in (FinishReason.STOP, FinishReason.EXPERT) else None]
        text, ids = detokenizer.add([] if state.request.probe else tokens, last=finish is not None)
        self._num_tokens += len(ids)
        return EngineChunk(
            text=text,
            token_ids=ids,
            finish=finish,
            expert=state.expert if finish is FinishReason.EXPERT else None,
            probability=state.probability if finish is FinishReason.EXPERT else None,
            distribution=state.distribution or {} if state.request.probe else None,
        )

    def _finish(self, output: GenerationOutput, state: RequestState) -> FinishReason | None:
        if not output.is_finished():
            return None
        if state.expert is not None:
            return FinishReason.EXPERT
        is_stopped = output.generated_tokens[-1] in self._tokenizer.stop_ids or state.request.probe
        return FinishReason.STOP if is_stopped else FinishReason.LENGTH

    def _with_first_fields(
        self, chunk: EngineChunk, output: GenerationOutput, num_prompt_tokens: int, received_s: float
    ) -> EngineChunk:
        """Add what only a request's first chunk has."""
        now_s = time.perf_counter()  # the clock of the manager's own times
        chunk = replace(chunk, tokenizer=self._tokenizer.fingerprint, num_prompt_tokens=num_prompt_tokens)
        return chunk.with_times(now_s - received_s, now_s - output.lifespan[0])

    def _cancel(self, request_id: str) -> None:
        self._manager.cancel_request(request_id)
        router = self._manager.output_router
        router.result_handlers.pop(request_id, None)
        # Outputs without a handler would pile up in this queue, which nothing else reads.
        while not router.output_queue.empty():
            try:
                router.output_queue.get_nowait()
            except queue.Empty:
                break

    def _install(self, table: ExpertTable) -> None:
        try:
            with self._manager.pause():
                # Two tables may arrive in either order.
                if table.table_version >= self._head.table.table_version:
                    self._head.install(table)
        except RuntimeError as error:
            raise EngineDead(f"{self._name}: the generation loop has stopped") from error


async def _latest(outputs: asyncio.Queue[GenerationOutput]) -> GenerationOutput:
    """Wait for an output and return the newest, because each one has all tokens so far."""
    output = await outputs.get()
    while not outputs.empty():
        output = outputs.get_nowait()
    return output
