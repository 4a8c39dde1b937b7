"""The engine for GPUs: vLLM, with expert logits added in its workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from typing import Any

import psutil
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from experts.adapter import Invocation
from experts.checkpoint import Checkpoint
from experts.engine.adapter_slots import AdapterSlots
from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import ModelSource, VllmConfig
from experts.engine.request import EngineRequest
from experts.engine.vllm.adapters import VllmAdapters
from experts.engine.vllm.decision_store import DecisionStore
from experts.engine.vllm.grammars import WorkerGrammars
from experts.engine.vllm.in_place import expert_request
from experts.engine.vllm.launch import load_tokenizer, start
from experts.engine.vllm.pictures import PictureReader, unusable
from experts.engine.vllm.plain_table import to_plain
from experts.engine.vllm.preparation import RequestPreparation
from experts.engine.vllm.request import RunningRequest
from experts.engine.vllm.running import RunningRequests
from experts.engine.vllm.stats import SchedulerStats
from experts.engine.vllm.worker import ExpertWorker
from experts.engine.vllm.worker_errors import worker_errors
from experts.errors import EngineDead, EngineFailed
from experts.head import ExpertTable
from experts.merged_checkpoint import merged_checkpoint
from experts.shadow import ShadowToken
from experts.token import ExpertToken

DEATH_POLL_S = 1.0  # how often a call to the workers checks that they are alive


class VllmEngine:
    """Runs one model; implements `AdapterEngine`. Create it and use it on one event loop.

    vLLM's scheduler and workers are separate processes, which end with this one.

    Raises:
        ModelLoadError: the model cannot be loaded, or vLLM cannot run it.
        TemplateError: its chat template cannot hold a conversation.
    """

    def __init__(self, model: ModelSource, config: VllmConfig) -> None:
        checkpoint = Checkpoint(
            model.source,
            model.revision,
            config.dtype,
            trust_remote_code=model.trust_remote_code,
            adapter=model.adapter,
        )
        self._config = config
        self._tokenizer = load_tokenizer(checkpoint, config)
        self._name = self._tokenizer.name
        self._adapters = AdapterSlots(config.max_adapters)
        self._fingerprint, self._dim = checkpoint.head()
        self._decisions = DecisionStore.create()
        scheduler = SchedulerStats()
        self._requests = RunningRequests(self._decisions, scheduler)
        self._is_closing = False
        self._head_opening: asyncio.Task[None] | None = None
        with ExitStack() as on_failure:
            on_failure.callback(self._decisions.remove)
            merged = merged_checkpoint(checkpoint)
            # −1: the model's own window, or as many tokens as the KV cache holds.
            self._llm = start(merged, config, config.max_model_len or -1, scheduler)
            on_failure.pop_all()
        self._store = VllmAdapters(self._llm, hidden_size=self._dim, max_rank=config.adapter_rank)
        window = min(self._tokenizer.max_model_len, self._llm.model_config.max_model_len)
        self._tokenizer = self._tokenizer.shortened_to(window)
        self._preparation = RequestPreparation(
            self._tokenizer,
            WorkerGrammars(partial(self._call_workers, ExpertWorker.prepare_grammar)),
            self._store,
            self._decisions,
            PictureReader(self._llm, self._name) if config.images else None,
        )
        self._is_traced = self._llm.observability_config.otlp_traces_endpoint is not None

    @property
    def keeps_prefixes(self) -> bool:
        return self._config.prefix_caching

    @property
    def vocabulary(self) -> str:
        return self._tokenizer.vocabulary

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        if request.task is not None:
            yield await self._preparation.perform(request)
            return
        with (
            self._adapters.using(request.adapter) as adapter,
            self._adapters.using_loaded(request.in_place.values()) as loaded,
        ):
            await self._open_head()
            request = request.with_adapters(loaded)
            running = await self._preparation.running(request, self._requests.new_key(), adapter)
            async with aclosing(self._stream(running)) as chunks:
                async for chunk in chunks:
                    yield chunk
            if running.heir is not None and self._is_closing:
                yield EngineChunk(finish=FinishReason.CANCELLED)
            elif running.heir is not None:
                heir = loaded[request.in_place[running.heir]]
                expert = expert_request(running, self._requests.new_key(), self._store, heir)
                async with aclosing(self._stream(expert)) as chunks:
                    async for chunk in chunks:
                        yield chunk

    async def _stream(self, running: RunningRequest) -> AsyncGenerator[EngineChunk, None]:
        with self._requests.registered(running) as request_id:
            outputs = self._llm.generate(
                running.engine_input(),
                running.sampling_params(),
                request_id,
                lora_request=running.lora_request,
                trace_headers=running.request.trace_headers if self._is_traced else None,
            )
            try:
                async with aclosing(outputs):  # closing it aborts the request
                    async for output in outputs:
                        chunk = running.to_chunk(output)
                        self._requests.count(chunk)
                        yield chunk
                        if chunk.finish is not None or running.heir is not None:
                            return
            except ValueError as error:
                if running.seen is None:
                    raise
                raise unusable(error) from error
            except EngineDeadError as error:
                raise self._dead() from error
            except EngineGenerateError as error:
                raise EngineFailed(f"{self._name}: {type(error.__cause__).__name__} in vLLM") from error

    async def load_adapter(self, name: str, folder: str, invocation: Invocation | None = None) -> None:
        await self._open_head()
        try:
            await self._adapters.load(self._store, name, folder, invocation)
        except EngineDeadError as error:
            raise self._dead() from error

    async def unload_adapter(self, name: str) -> None:
        await self._open_head()
        self._adapters.unload(self._store, name)

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        for token in (*tokens, *(shadow.token for shadow in shadows)):
            token.require_meta(self._name, self._fingerprint, self._dim)
        table = ExpertTable.of(table_version, tokens, self._dim, shadows)
        await self._open_head()
        await self._call_workers(ExpertWorker.install_experts, self._dim, *to_plain(table))

    async def check(self) -> None:
        if self._is_closing or self._llm.errored:
            raise self._dead()
        if self._head_opening is not None and self._head_opening.done():
            self._head_opening.result()
        silence_s = self._requests.silence_s
        if silence_s > self._config.stall_s:
            raise EngineDead(f"{self._name}: no token for {silence_s:.0f} s although requests are waiting")

    def stats(self) -> EngineStats:
        return self._requests.stats()

    async def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        request_ids = self._requests.close()
        try:
            await self._adapters.close()
            if not self._llm.errored:
                await self._llm.abort(request_ids)
        finally:
            with suppress(psutil.NoSuchProcess):  # one of vLLM's own may end while it looks
                await asyncio.to_thread(self._llm.shutdown)
            self._decisions.remove()
            # Its finalizer would shut down again when the interpreter has unloaded its modules.
            del self._llm, self._store, self._preparation

    async def _open_head(self) -> None:
        """Make the workers score experts: once, on the event loop of the first call.

        Raises:
            EngineDead: they cannot; `check` says so from then on.
        """
        if self._is_closing:
            raise self._dead()
        if self._head_opening is None:
            self._head_opening = asyncio.create_task(self._open_head_on_workers())
        await asyncio.shield(self._head_opening)  # one caller's cancellation must not affect the others

    async def _open_head_on_workers(self) -> None:
        try:
            await self._call_workers(
                ExpertWorker.open_expert_head,
                str(self._decisions.folder),
                self._tokenizer.hf_tokenizer.backend_tokenizer.to_str(),
                self._tokenizer.end_id,
                sorted(self._tokenizer.parsers.shown_tokens),
            )
        except EngineFailed as error:  # some workers may have a head and some not, so it is not retried
            raise EngineDead(str(error)) from error

    async def _call_workers(self, method: Any, *args: Any) -> Any:
        """Run a method of `ExpertWorker` on all ranks, between two steps. Returns a list of their results.

        Raises:
            EngineFailed: it failed in a worker.
            EngineDead: vLLM died, and would never answer.
        """
        call = asyncio.ensure_future(self._llm.collective_rpc(method.__name__, args=args))
        try:
            while not (await asyncio.wait({call}, timeout=DEATH_POLL_S))[0]:
                if self._llm.errored:
                    raise self._dead()
            with worker_errors(f"{self._name}: {method.__name__} failed in a worker of vLLM", EngineFailed):
                return call.result()
        except EngineDeadError as error:
            raise self._dead() from error
        finally:
            call.cancel()

    def _dead(self) -> EngineDead:
        reason = "was closed" if self._is_closing else "has stopped: a process of vLLM died; its log says why"
        return EngineDead(f"{self._name}: the engine {reason}")
