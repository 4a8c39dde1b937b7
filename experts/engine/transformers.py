"""The default engine: Hugging Face's continuous batching, with the extended head."""

from __future__ import annotations

import asyncio
import itertools
import math
import queue
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from experts.engine import attention, layout
from experts.engine.base import Call, Chunk, FinishReason, Stats
from experts.engine.config import TransformersConfig
from experts.engine.load import LoadedModel, load
from experts.engine.routing import Row
from experts.engine.sampler import RoutingSampler
from experts.engine.text_stream import TextStream
from experts.errors import EngineDead, UnknownAdapter
from experts.head import ExpertTable, ExtendedHead
from experts.token import ExpertToken, head_fingerprint

CPU_PAGE_TOKENS = 16  # every stream wastes half a page on average
GPU_PAGE_TOKENS = 256  # what flash attention's paged kernels take


class TransformersEngine:
    """Runs one model; `Engine` says what the methods promise. Make and use it on one event loop."""

    def __init__(
        self,
        source: str,
        config: TransformersConfig,
        revision: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        self._config = config
        loaded = load(source, config, revision, trust_remote_code=trust_remote_code)
        self._text = loaded.text
        self._head = _extend_head(loaded)
        self._fingerprint = head_fingerprint(self._head.weight)
        end_id = min(self._text.stop_ids, default=None)
        self._sampler = RoutingSampler(self._head, self._text.tokenizer, end_id)
        self._manager = _manager(loaded, config, self._sampler)
        self._numbers = itertools.count()
        self._num_tokens = 0
        self._closing = False
        self._manager.start()

    @property
    def keeps_prefixes(self) -> bool:
        return False

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        if call.adapter is not None:
            raise UnknownAdapter(call.adapter)
        called_s = time.perf_counter()
        prompt = await asyncio.to_thread(self._text.encode, call)
        max_tokens = self._text.budget(len(prompt), call)
        seed = call.seed if call.seed is not None else secrets.randbits(48)
        row = Row(call, seed, num_tokens=len(prompt) + max_tokens)
        # The caller's id may come twice, when a request is retried here while its first try is still ending.
        request_id = f"{call.request_id}#{next(self._numbers)}"
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        text = TextStream(self._text.tokenizer, prompt)
        self._sampler.open(request_id, row)
        finished = False
        try:
            self._submit(request_id, prompt, max_tokens, outputs)
            num_prompt_tokens: int | None = len(prompt)
            while not finished:
                output = await self._newest(outputs)
                finished = output.is_finished()
                chunk = self._chunk(output, row, text, num_prompt_tokens)
                if num_prompt_tokens is not None:
                    now_s = time.perf_counter()  # as the manager's own times
                    chunk = chunk.timed(now_s - called_s, now_s - output.lifespan[0])
                    num_prompt_tokens = None
                yield chunk
        finally:
            self._sampler.close(request_id)
            if not finished:
                self._cancel(request_id)

    async def install(self, epoch: int, tokens: Sequence[ExpertToken]) -> None:
        for token in tokens:
            token.require_meta(self._text.name, self._fingerprint, self._head.dim)
        await asyncio.to_thread(self._swap, ExpertTable.of(epoch, tokens, self._head.dim))

    async def check(self) -> None:
        error = self._manager.background_thread_status.fatal_error
        if error is not None or not self._manager.is_running():
            # The message itself may quote a prompt, and this one reaches logs that are not ours.
            cause = type(error).__name__ if error else "no error"
            raise EngineDead(f"{self._text.name}: the generation loop has stopped ({cause})")
        if self._sampler.silent_s > self._config.stall_s:
            raise EngineDead(
                f"{self._text.name}: no token for {self._sampler.silent_s:.0f} s with requests waiting"
            )

    def stats(self) -> Stats:
        processor = self._manager.batch_processor
        in_flight = self._sampler.num_tokens_in_flight
        if processor is None:
            return Stats(0, 0, 0.0, 0, in_flight)
        running = len(processor.scheduler.active_requests)
        free = float(processor.cache.compute_free_capacity()) if running else 1.0
        waiting = max(0, self._sampler.num_open - running)
        return Stats(running, waiting, 1.0 - free, self._num_tokens, in_flight)

    async def close(self) -> None:
        self._closing = True
        await asyncio.to_thread(self._manager.stop, hard_stop=True)

    def _submit(
        self, request_id: str, prompt: list[int], max_tokens: int, outputs: asyncio.Queue[GenerationOutput]
    ) -> None:
        # The manager would refuse it too, with a warning that has ids of the prompt in it.
        if self._manager.background_thread_status.can_accept_new_requests() is not None:
            raise self._accepts_nothing()
        self._manager.register_result_handler(request_id, outputs.put_nowait)
        accepted = self._manager.add_request(
            prompt,
            request_id=request_id,
            max_new_tokens=max_tokens,
            streaming=True,
            eos_token_id=[*self._text.stop_ids, self._head.num_words],
        )
        if accepted is None:
            raise self._accepts_nothing()

    def _accepts_nothing(self) -> EngineDead:
        return EngineDead(f"{self._text.name}: the generation loop accepts no requests")

    async def _newest(self, outputs: asyncio.Queue[GenerationOutput]) -> GenerationOutput:
        """Every output holds all tokens so far: what came while a chunk was under way makes one chunk."""
        output = await outputs.get()
        while not outputs.empty():
            output = outputs.get_nowait()
        return output

    def _chunk(
        self, output: GenerationOutput, row: Row, text: TextStream, num_prompt_tokens: int | None
    ) -> Chunk:
        if output.status is RequestStatus.FAILED:
            if not self._closing:
                # Not the error itself, which may quote a prompt; the replica's log has its traceback.
                raise EngineDead(f"{self._text.name}: the generation loop failed")
            return Chunk(finish=FinishReason.CANCELLED)
        finish = self._finish(output, row)
        tokens = output.generated_tokens[: -1 if finish in (FinishReason.STOP, FinishReason.EXPERT) else None]
        new_text, new_ids = text.add([] if row.call.probe else tokens, last=finish is not None)
        self._num_tokens += len(new_ids)
        return Chunk(
            text=new_text,
            token_ids=new_ids,
            tokenizer=None if num_prompt_tokens is None else self._text.tokenizer_fingerprint,
            num_prompt_tokens=num_prompt_tokens,
            finish=finish,
            expert=row.expert if finish is FinishReason.EXPERT else None,
            probability=row.probability if finish is FinishReason.EXPERT else None,
            distribution=row.distribution or {} if row.call.probe else None,
        )

    def _finish(self, output: GenerationOutput, row: Row) -> FinishReason | None:
        if not output.is_finished():
            return None
        last = output.generated_tokens[-1]
        if last == self._head.num_words:
            return FinishReason.EXPERT
        return FinishReason.STOP if last in self._text.stop_ids or row.call.probe else FinishReason.LENGTH

    def _cancel(self, request_id: str) -> None:
        self._manager.cancel_request(request_id)
        router = self._manager.output_router
        router.result_handlers.pop(request_id, None)
        # Outputs without a handler pile up in this queue, and nobody else reads it.
        while not router.output_queue.empty():
            try:
                router.output_queue.get_nowait()
            except queue.Empty:
                break

    def _swap(self, table: ExpertTable) -> None:
        try:
            with self._manager.pause():
                if table.epoch >= self._head.table.epoch:  # two swaps may arrive in either order
                    self._head.install(table)
        except RuntimeError as error:
            raise EngineDead(f"{self._text.name}: the generation loop has stopped") from error


def _extend_head(loaded: LoadedModel) -> ExtendedHead:
    head = ExtendedHead(loaded.model.get_output_embeddings())
    loaded.model.set_output_embeddings(head)
    return head


def _manager(
    loaded: LoadedModel, config: TransformersConfig, sampler: RoutingSampler
) -> ContinuousBatchingManager:
    on_cpu = loaded.model.device.type == "cpu"
    # On a CPU the default cache takes most of the memory there is, and every step pays for its size.
    num_tokens = config.cache_tokens or (config.max_streams * loaded.text.max_model_len if on_cpu else None)
    page_size = CPU_PAGE_TOKENS if on_cpu else GPU_PAGE_TOKENS
    if on_cpu:
        attention.use()
        layout.lay_by_columns(loaded.model)
    model: Any = loaded.model  # the decorator of this method hides its type
    manager: ContinuousBatchingManager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=num_tokens and math.ceil(num_tokens / page_size),
            max_batch_tokens=config.max_batch_tokens,
            max_requests_per_batch=config.max_streams,
            # The sampler runs Python at every step, which a replayed graph would leave out.
            use_cuda_graph=False,
            use_async_batching=False,
        ),
    )
    manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([sampler]))
    # The list counts only processors it converted itself; without a row of arguments ours would be left out.
    manager.logit_processor.tensors_required = 1
    return manager
