"""The fast engine: vLLM, with expert logits added in its workers."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import CompletionOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from experts.checkpoint import Checkpoint
from experts.engine.base import Call, Chunk, FinishReason, Stats
from experts.engine.config import ModelSource, VllmConfig
from experts.engine.draws import MIN_TEMPERATURE
from experts.engine.mailbox import Mailbox
from experts.engine.model_text import ModelText
from experts.engine.text_stream import TextStream
from experts.engine.vllm_stats import SchedulerWatch
from experts.engine.vllm_worker import ExpertWorker, extra_args
from experts.errors import EngineDead, EngineFailed, ModelLoadError
from experts.head import ExpertTable
from experts.token import ExpertToken

CPU_MEMORY_FRACTION = 0.25  # where nothing is asked for: other replicas use the machine's memory too
DEATH_WATCH_S = 1.0


@dataclass(slots=True)
class OpenCall:
    """`num_tokens`: of the prompt, and at most to be written."""

    call: Call
    num_tokens: int
    ids: list[int] = field(default_factory=list)


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
        self._fingerprint, self._dim = checkpoint.head()
        self._watch = SchedulerWatch()
        self._mailbox = Mailbox.create()
        self._open: dict[str, OpenCall] = {}
        self._numbers = itertools.count()
        self._num_tokens = 0
        self._last_sign_of_life = time.monotonic()
        self._closing = False
        self._opening: asyncio.Task[Any] | None = None
        try:
            self._llm = _start(checkpoint, config, self._text, self._watch)
        except BaseException:
            self._mailbox.remove()
            raise

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        prompt = await asyncio.to_thread(self._text.encode, call)
        max_tokens = self._text.budget(len(prompt), call)
        await self._opened()
        # The caller's id may come twice, when a request is retried here while its first try is still ending.
        key = str(next(self._numbers))
        request_id = f"{call.request_id}#{key}"
        outputs = self._llm.generate(
            {"prompt_token_ids": prompt}, self._params(call, key, max_tokens), request_id
        )
        text = TextStream(self._text.tokenizer, prompt)
        num_prompt_tokens: int | None = len(prompt)
        if not self._open:  # the wait for a token begins now, however long nobody asked
            self._last_sign_of_life = time.monotonic()
        self._open[request_id] = opened = OpenCall(call, len(prompt) + max_tokens)
        try:
            async with aclosing(outputs):  # closing it aborts the request
                async for output in outputs:
                    yield self._chunk(output.outputs[0], opened, key, text, num_prompt_tokens)
                    num_prompt_tokens = None
        except EngineDeadError as error:
            raise self._dead() from error
        except EngineGenerateError as error:
            raise EngineFailed(f"{self._text.name}: {type(error.__cause__).__name__} in vLLM") from error
        finally:
            del self._open[request_id]
            if not self._open and not self._closing:
                self._mailbox.clear()

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
        in_flight = sum(opened.num_tokens - len(opened.ids) for opened in self._open.values())
        # The scheduler tells after each step; after the last one nobody would correct it.
        cache_use = self._watch.cache_use if num_open else 0.0
        return Stats(running, num_open - running, cache_use, self._num_tokens, in_flight)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        try:
            if not self._llm.errored:
                await self._llm.abort(list(self._open))
        finally:
            await asyncio.to_thread(self._llm.shutdown)
            self._mailbox.remove()
            del self._llm  # or it would shut down once more at an end that has taken its modules away

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

    def _params(self, call: Call, key: str, max_tokens: int) -> SamplingParams:
        # A seeded draw is made in the worker, and leaves vLLM one id to choose from.
        greedy = call.seed is not None or call.temperature < MIN_TEMPERATURE
        return SamplingParams(
            temperature=0.0 if greedy else call.temperature,
            top_p=1.0 if greedy else call.top_p,
            top_k=0 if greedy else call.top_k,
            max_tokens=max_tokens,
            stop_token_ids=sorted(self._text.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=extra_args(call, key),
            skip_clone=True,
        )

    def _chunk(
        self,
        output: CompletionOutput,
        opened: OpenCall,
        key: str,
        text: TextStream,
        num_prompt_tokens: int | None,
    ) -> Chunk:
        self._last_sign_of_life = time.monotonic()
        opened.ids += output.token_ids
        if output.finish_reason == "abort":
            return Chunk(finish=FinishReason.CANCELLED)
        if output.finish_reason == "error":
            raise EngineFailed(f"{self._text.name}: vLLM gave up the request; its log says why")
        ends = output.finish_reason is not None
        stopped = ends and opened.ids[-1] in self._text.stop_ids
        probe, num_written = opened.call.probe, len(opened.ids) - stopped
        decided = self._mailbox.take(key) if (stopped or probe) and opened.call.allowed else None
        expert = decided.expert if decided and stopped and decided.step == num_written else None
        finish = _finish(ends, stopped or probe, expert)
        new_text, new_ids = text.add([] if probe else opened.ids[:num_written], last=ends)
        self._num_tokens += len(new_ids)
        return Chunk(
            text=new_text,
            token_ids=new_ids,
            tokenizer=None if num_prompt_tokens is None else self._text.tokenizer_fingerprint,
            num_prompt_tokens=num_prompt_tokens,
            finish=finish,
            expert=expert,
            probability=decided.probability if decided and expert else None,
            distribution=((decided and decided.distribution) or {}) if probe else None,
        )

    def _dead(self) -> EngineDead:
        reason = "was closed" if self._closing else "has stopped: a process of vLLM died; its log says why"
        return EngineDead(f"{self._text.name}: the engine {reason}")


def _finish(ends: bool, stopped: bool, expert: str | None) -> FinishReason | None:
    if not ends:
        return None
    if expert is not None:
        return FinishReason.EXPERT
    return FinishReason.STOP if stopped else FinishReason.LENGTH


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


def _start(checkpoint: Checkpoint, config: VllmConfig, text: ModelText, watch: SchedulerWatch) -> AsyncLLM:
    os.environ["VLLM_NO_USAGE_STATS"] = "1"  # nothing is told to anybody
    # The worker extension reads the batch of this runner; the other one keeps it elsewhere.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    # Engines that share a machine would all be bound to its first cores.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    try:
        args = _engine_args(checkpoint, config, text)
        return AsyncLLM.from_engine_args(args, stat_loggers=[watch.logger])
    except (ValueError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(f"{text.name}: vLLM cannot run it: {reason}") from error


def _engine_args(checkpoint: Checkpoint, config: VllmConfig, text: ModelText) -> AsyncEngineArgs:
    optional = {
        "max_num_batched_tokens": config.max_batch_tokens,
        "kv_cache_memory_bytes": config.cache_bytes,
        "gpu_memory_utilization": config.gpu_memory_utilization,
    }
    if current_platform.is_cpu() and config.gpu_memory_utilization is None:
        optional["gpu_memory_utilization"] = CPU_MEMORY_FRACTION
    return AsyncEngineArgs(
        model=str(checkpoint.folder()),
        skip_tokenizer_init=True,
        trust_remote_code=checkpoint.trust_remote_code,
        dtype=config.dtype,
        max_model_len=text.max_model_len,
        max_num_seqs=config.max_streams,
        tensor_parallel_size=config.tensor_parallel,
        enforce_eager=config.enforce_eager,
        enable_prefix_caching=config.prefix_caching,
        worker_extension_cls=f"{ExpertWorker.__module__}.{ExpertWorker.__qualname__}",
        generation_config="vllm",  # sampling is as the call says
        disable_log_stats=True,
        **{name: value for name, value in optional.items() if value is not None},
    )
