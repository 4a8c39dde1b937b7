"""The fast engine: vLLM, with expert logits added in its workers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from vllm.inputs import tokens_input
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from experts.adapter import read_adapter
from experts.checkpoint import Checkpoint
from experts.engine.base import Call, Chunk, Stats
from experts.engine.config import DEFAULT_ADAPTER_RANK, ModelSource, VllmConfig
from experts.engine.mailbox import Mailbox
from experts.engine.model_text import ModelText
from experts.engine.vllm_adapters import Adapters
from experts.engine.vllm_answer import Answer
from experts.engine.vllm_start import start
from experts.engine.vllm_stats import SchedulerWatch
from experts.engine.vllm_worker import ExpertWorker
from experts.errors import EngineDead, EngineFailed, ModelLoadError
from experts.head import ExpertTable
from experts.token import ExpertToken

DEATH_WATCH_S = 1.0


class VllmEngine:
    """Runs one model; `Engine` says what the methods promise. Make and use it on one event loop.

    vLLM's scheduler and workers are processes of their own, which end with this one.
    """

    def __init__(self, model: ModelSource, config: VllmConfig) -> None:
        checkpoint = Checkpoint(
            model.source, model.revision, config.dtype, trust_remote_code=model.trust_remote_code
        )
        self._config = config
        self._text = _model_text(checkpoint, config)
        self._adapters = Adapters(config.max_adapters)
        self._fingerprint, self._dim = checkpoint.head()
        self._watch = SchedulerWatch()
        self._mailbox = Mailbox.create()
        self._open: dict[str, Answer] = {}
        self._numbers = itertools.count()
        self._num_tokens = 0
        self._last_sign_of_life = time.monotonic()
        self._closing = False
        self._opening: asyncio.Task[Any] | None = None
        try:
            self._llm = start(checkpoint, config, self._text, self._watch)
        except BaseException:
            self._mailbox.remove()
            raise

    @property
    def keeps_prefixes(self) -> bool:
        return self._config.prefix_caching

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        called_s = time.monotonic()
        prompt = await asyncio.to_thread(self._text.encode, call)
        max_tokens = self._text.budget(len(prompt), call)
        await self._opened()
        key = str(next(self._numbers))
        answer = Answer(call, key, prompt, max_tokens, self._text, self._mailbox, called_s)
        with self._adapters.using(call.adapter) as adapter, self._under_way(answer) as request_id:
            asked = tokens_input(prompt)
            outputs = self._llm.generate(asked, answer.params(), request_id, lora_request=adapter)
            try:
                async with aclosing(outputs):  # closing it aborts the request
                    async for output in outputs:
                        chunk = answer.chunk(output)
                        self._num_tokens += len(chunk.token_ids)
                        self._last_sign_of_life = time.monotonic()
                        yield chunk
            except EngineDeadError as error:
                raise self._dead() from error
            except EngineGenerateError as error:
                raise EngineFailed(f"{self._text.name}: {type(error.__cause__).__name__} in vLLM") from error

    async def load_adapter(self, name: str, folder: str) -> None:
        """As `AdapterEngine`; there is no room when `max_adapters` others are loaded."""
        await self._opened()
        # vLLM would take pickles too, ask the hub for a folder that is missing, and find out that an adapter
        # is another model's only when it copies the weights.
        adapter = await asyncio.to_thread(read_adapter, Path(folder))
        max_rank = self._config.max_adapter_rank or DEFAULT_ADAPTER_RANK
        adapter.require_fit(hidden_size=self._dim, max_rank=max_rank)
        try:
            await self._adapters.load(self._llm, name, folder)
        except EngineDeadError as error:
            raise self._dead() from error

    async def unload_adapter(self, name: str) -> None:
        await self._opened()
        self._adapters.unload(self._llm, name)

    async def install(self, epoch: int, tokens: Sequence[ExpertToken]) -> None:
        for token in tokens:
            token.require_meta(self._text.name, self._fingerprint, self._dim)
        table = ExpertTable.of(epoch, tokens, self._dim)
        await self._opened()
        await self._on_workers(
            ExpertWorker.install_experts,
            table.epoch,
            list(table.names),
            table.weight.numpy().tobytes(),
            table.bias.tolist(),
        )

    async def check(self) -> None:
        if self._closing or self._llm.errored:
            raise self._dead()
        silent_s = time.monotonic() - self._last_sign_of_life if self._open else 0.0
        if silent_s > self._config.stall_s:
            raise EngineDead(f"{self._text.name}: no token for {silent_s:.0f} s with requests waiting")

    def stats(self) -> Stats:
        num_open = len(self._open)
        running = min(num_open, self._watch.num_running)
        in_flight = sum(answer.num_tokens_left for answer in self._open.values())
        # The scheduler tells after each step; after the last one nobody would correct it.
        cache_use = self._watch.cache_use if num_open else 0.0
        return Stats(running, num_open - running, cache_use, self._num_tokens, in_flight)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        try:
            await self._adapters.close()
            if not self._llm.errored:
                await self._llm.abort(list(self._open))
        finally:
            await asyncio.to_thread(self._llm.shutdown)
            self._mailbox.remove()
            del self._llm  # or it would shut down once more at an end that has taken its modules away

    @contextmanager
    def _under_way(self, answer: Answer) -> Iterator[str]:
        """The id of its request. The caller's may come twice: when a request is retried here while its first
        try is still ending."""
        if not self._open:  # the wait for a token begins now, however long nobody asked
            self._last_sign_of_life = time.monotonic()
        request_id = f"{answer.call.request_id}#{answer.key}"
        self._open[request_id] = answer
        try:
            yield request_id
        finally:
            del self._open[request_id]
            if not self._open and not self._closing:
                self._mailbox.clear()

    async def _opened(self) -> None:
        """The workers are told of experts once, on the event loop that the first call comes on."""
        if self._closing:
            raise self._dead()
        if self._opening is None:
            self._opening = asyncio.create_task(
                self._on_workers(
                    ExpertWorker.open_expert_head,
                    str(self._mailbox.folder),
                    self._text.tokenizer.backend_tokenizer.to_str(),
                    min(self._text.stop_ids),
                )
            )
        await asyncio.shield(self._opening)  # whoever is cancelled, others wait for it too

    async def _on_workers(self, method: Any, *args: Any) -> None:
        """vLLM runs it between two steps, on all ranks; a dead engine would never answer."""
        answer = asyncio.ensure_future(self._llm.collective_rpc(method.__name__, args=args))
        try:
            while not (await asyncio.wait({answer}, timeout=DEATH_WATCH_S))[0]:
                if self._llm.errored:
                    raise self._dead()
            answer.result()
        except EngineDeadError as error:
            raise self._dead() from error
        finally:
            answer.cancel()

    def _dead(self) -> EngineDead:
        reason = "was closed" if self._closing else "has stopped: a process of vLLM died; its log says why"
        return EngineDead(f"{self._text.name}: the engine {reason}")


def _model_text(checkpoint: Checkpoint, config: VllmConfig) -> ModelText:
    renderer = checkpoint.load_renderer()
    text = ModelText.of(
        checkpoint.name, renderer, checkpoint.config(), checkpoint.generation(), config.max_model_len
    )
    if not text.stop_ids:
        raise ModelLoadError(
            f"{text.name}: names no token that ends a turn; set eos_token_id in its generation_config.json"
        )
    return text
