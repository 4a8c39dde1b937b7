"""The engine that embeds: inputs of all requests together in batches, beside the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import EmbeddingConfig, ModelSource
from experts.engine.embedding.model import EmbeddingModel
from experts.engine.request import EngineRequest
from experts.engine.tasks import Embed
from experts.errors import EngineDead, InvalidCall, TokenMismatch
from experts.shadow import ShadowToken
from experts.token import ExpertToken

PROBE = "ping"


@dataclass(eq=False)
class _Work:
    """The inputs of one request. `left` are the indexes of those that no batch has had yet."""

    inputs: Sequence[Sequence[int]]
    done: asyncio.Future[None]
    left: deque[int] = field(default_factory=deque)
    vectors: dict[int, torch.Tensor] = field(default_factory=dict)


class EmbeddingEngine:
    """Runs one model; implements `Engine`. Create it and use it on one event loop.

    The replica bounds what waits: it gets `max_streams` requests at a time.
    A request without a task is a probe: the model embeds a word, and nothing is written.

    Raises:
        ModelLoadError: the model cannot be loaded.
    """

    def __init__(self, source: ModelSource, config: EmbeddingConfig) -> None:
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        self._config = config
        self._model = EmbeddingModel(source, config)
        self._waiting = deque[_Work]()
        self._step_thread = ThreadPoolExecutor(1, "embed")
        self._stepping: asyncio.Task[None] | None = None
        self._step_began_s: float | None = None
        self._num_open, self._num_tokens, self._is_closing = 0, 0, False

    @property
    def keeps_prefixes(self) -> bool:
        return False

    @property
    def vocabulary(self) -> str | None:
        return None

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        task = request.task or Embed()
        if not isinstance(task, Embed):
            raise InvalidCall("unsupported_task", "model", f"{self._model.name} only has embeddings")
        self._model.require_dimensions(task.dimensions)
        inputs = await asyncio.to_thread(self._model.tokenize, request.inputs or (PROBE,))
        vectors = await self._embed(inputs)
        if vectors is None:
            yield EngineChunk(finish=FinishReason.CANCELLED)
            return
        found = await asyncio.to_thread(self._to_bytes, vectors, task.dimensions)
        num_tokens = sum(map(len, inputs))
        yield EngineChunk(vectors=found, num_prompt_tokens=num_tokens, finish=FinishReason.STOP)

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        raise TokenMismatch(f"{self._model.name}: an embedding model takes no expert tokens")

    async def check(self) -> None:
        if (steps := self._stepping) is not None and steps.done() and steps.exception() is not None:
            raise EngineDead(
                f"{self._model.name}: the steps have stopped ({type(steps.exception()).__name__})"
            )
        began_s = self._step_began_s
        if began_s is not None and time.monotonic() - began_s > self._config.stall_s:
            raise EngineDead(f"{self._model.name}: a step has taken more than {self._config.stall_s:g} s")

    def stats(self) -> EngineStats:
        num_waiting = len(self._waiting)
        num_tokens = sum(len(work.inputs[index]) for work in self._waiting for index in work.left)
        return EngineStats(self._num_open - num_waiting, num_waiting, 0.0, self._num_tokens, num_tokens)

    async def close(self) -> None:
        self._is_closing = True
        if self._stepping is not None:
            await asyncio.gather(self._stepping, return_exceptions=True)
        self._step_thread.shutdown(wait=False)

    async def _embed(self, inputs: Sequence[Sequence[int]]) -> list[torch.Tensor] | None:
        """The vector of each input, in their order; None if the engine shuts down."""
        work = _Work(inputs, asyncio.get_running_loop().create_future(), deque(range(len(inputs))))
        self._waiting.append(work)
        self._num_open += 1
        try:
            if self._stepping is None or self._stepping.done():
                self._stepping = asyncio.create_task(self._step_until_idle(), name="embed")
            await work.done
        finally:
            self._num_open -= 1
            if work in self._waiting:
                self._waiting.remove(work)
        ordered = [work.vectors[index] for index in range(len(inputs)) if index in work.vectors]
        return ordered if len(ordered) == len(inputs) else None

    async def _step_until_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and not self._is_closing:
            batch = self._next_batch()
            rows = [work.inputs[index] for work, index in batch]
            self._step_began_s = time.monotonic()
            step = loop.run_in_executor(self._step_thread, self._model.embed, rows)
            await asyncio.wait([step])
            self._step_began_s = None
            if (error := step.exception()) is not None:  # each request of the batch reports it
                self._fail(batch, error)
                continue
            self._num_tokens += sum(map(len, rows))
            for (work, index), vector in zip(batch, step.result(), strict=True):
                work.vectors[index] = vector
                if len(work.vectors) == len(work.inputs) and not work.done.done():
                    work.done.set_result(None)
        while self._waiting:  # the engine shuts down
            work = self._waiting.popleft()
            if not work.done.done():
                work.done.set_result(None)

    def _next_batch(self) -> list[tuple[_Work, int]]:
        """Inputs of the waiting requests by turns, so that a request with many delays no other for long."""
        batch, longest = list[tuple[_Work, int]](), 0
        while self._waiting:
            work = self._waiting[0]
            longest = max(longest, len(work.inputs[work.left[0]]))
            if batch and longest * (len(batch) + 1) > self._config.max_batch_tokens:
                break
            batch.append((work, work.left.popleft()))
            self._waiting.popleft()
            if work.left:
                self._waiting.append(work)
        return batch

    def _fail(self, batch: Sequence[tuple[_Work, int]], error: BaseException) -> None:
        failed = [work for work, _ in batch]
        self._waiting = deque(work for work in self._waiting if work not in failed)
        for work in failed:
            if not work.done.done():
                work.done.set_exception(error)

    def _to_bytes(self, vectors: Sequence[torch.Tensor], dimensions: int | None) -> tuple[bytes, ...]:
        return tuple(self._model.to_bytes(vector, dimensions) for vector in vectors)
