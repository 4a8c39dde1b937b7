"""Starts vLLM with the settings of an `engine` block."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.ray.lazy_utils import is_in_ray_actor
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from experts.checkpoint import Checkpoint
from experts.checkpoint_files import prepares_media, reads_pictures
from experts.engine.adapter_slots import num_slots
from experts.engine.config import VllmConfig
from experts.engine.config.vllm_arguments import require_known
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.vllm.adapters import NUM_EMPTY_SLOTS
from experts.engine.vllm.parsing import choose
from experts.engine.vllm.scheduler import make_scheduler
from experts.engine.vllm.stats import SchedulerStats
from experts.engine.vllm.worker import ExpertWorker
from experts.errors import ModelLoadError
from experts.prompt import PromptRenderer

CPU_MEMORY_FRACTION = 0.25  # the default on a CPU, where other replicas use the same memory
# With a cache of a given size this share decides nothing, but vLLM does not start unless it is free. The
# default is nearly the whole GPU, which another replica may use.
NO_SHARE = 0.01


def load_tokenizer(checkpoint: Checkpoint, config: VllmConfig) -> ModelTokenizer:
    """Raises ModelLoadError, TemplateError."""
    renderer = checkpoint.load_renderer()
    if config.images:
        renderer = _seeing(checkpoint, renderer)
    tokenizer = ModelTokenizer.of(
        checkpoint.name, renderer, checkpoint.config(), checkpoint.generation(), config.max_model_len
    )
    parsers = choose(renderer.tokenizer, config.tool_parser, config.reasoning_parser)
    return tokenizer.parsed_by(parsers, config.chat_template_kwargs)


def _seeing(checkpoint: Checkpoint, renderer: PromptRenderer) -> PromptRenderer:
    if not prepares_media(checkpoint.folder()):
        raise ModelLoadError(
            f"{checkpoint.name}: has no processor_config.json or preprocessor_config.json, so it reads no "
            "pictures; add the file of the original model, or set modalities: [text]"
        )
    return renderer.with_pictures()


def start(checkpoint: Checkpoint, config: VllmConfig, max_model_len: int, stats: SchedulerStats) -> AsyncLLM:
    """Start vLLM's processes, which takes seconds to minutes. Raises ModelLoadError."""
    os.environ["VLLM_NO_USAGE_STATS"] = "1"  # send no usage reports
    # The worker extension reads the batch of the V1 runner; V2 stores it elsewhere.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    # By default, all engines on a machine would bind to the same first cores.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    try:
        args = _engine_args(checkpoint, config, max_model_len)
        return AsyncLLM.from_engine_args(args, stat_loggers=[stats.logger])
    # The last three are what vLLM raises for values of `engine.extra` that it does not expect.
    except (ValueError, RuntimeError, OSError, TypeError, AssertionError, LookupError) as error:
        raise ModelLoadError(f"{checkpoint.name}: vLLM cannot run it: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        return f"{place}: {first['msg']}".removeprefix(": ").splitlines()[0]
    # Raised by another process than the one that failed, and without its reason.
    if str(error).startswith("Engine core initialization failed"):
        return "its engine process ended while it started; the log of this replica says why"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _engine_args(checkpoint: Checkpoint, config: VllmConfig, max_model_len: int) -> AsyncEngineArgs:
    require_known(config.extra, [field.name for field in dataclasses.fields(AsyncEngineArgs)])
    optional = {
        "max_num_batched_tokens": config.max_batch_tokens,
        "kv_cache_memory_bytes": config.cache_bytes,
        "gpu_memory_utilization": NO_SHARE if config.cache_bytes else config.gpu_memory_utilization,
        "max_lora_rank": config.max_adapter_rank,
        "quantization": config.quantization,
        "compilation_config": config.compilation or None,
        "scheduler_cls": _name(make_scheduler) if config.max_adapters else None,
    }
    settings = _media_settings(checkpoint, config)
    settings |= _cpu_settings(config) if current_platform.is_cpu() else _gpu_settings(config)
    settings |= {name: value for name, value in optional.items() if value is not None}
    settings |= config.extra
    return AsyncEngineArgs(
        model=str(checkpoint.folder()),
        skip_tokenizer_init=not config.images,
        trust_remote_code=checkpoint.trust_remote_code,
        dtype=config.dtype,
        max_model_len=max_model_len,
        max_num_seqs=config.max_streams,
        kv_cache_dtype=config.kv_cache_dtype,
        tensor_parallel_size=config.tensor_parallel,
        pipeline_parallel_size=config.pipeline_parallel,
        enforce_eager=config.enforce_eager,
        enable_prefix_caching=config.prefix_caching,
        enable_lora=config.max_adapters > 0,
        max_loras=num_slots(config.max_adapters) + NUM_EMPTY_SLOTS,
        worker_extension_cls=_name(ExpertWorker),
        generation_config="vllm",  # sampling parameters come from the request alone
        disable_log_stats=True,
        **settings,
    )


def _media_settings(checkpoint: Checkpoint, config: VllmConfig) -> dict[str, Any]:
    if not config.images:
        return {"language_model_only": True} if reads_pictures(checkpoint.folder()) else {}
    # Its cache of prepared pictures needs every request to reach the scheduler, in the order of preparation.
    # If one were cancelled in between, all others with the same picture would fail.
    return {"limit_mm_per_prompt": {"video": 0, "audio": 0}, "mm_processor_cache_gb": 0}


def _name(found: Callable[..., Any]) -> str:
    """As vLLM takes it, to find it in another process."""
    return f"{found.__module__}.{found.__qualname__}"


def _gpu_settings(config: VllmConfig) -> dict[str, Any]:
    # The ranks have the GPUs of the replica's placement group. The replica itself has none, so vLLM would
    # count none, and refuse to start.
    is_spread = config.num_devices > 1 and is_in_ray_actor()
    return {"distributed_executor_backend": "ray"} if is_spread else {}


def _cpu_settings(config: VllmConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"gpu_memory_utilization": CPU_MEMORY_FRACTION}
    # On CPUs vLLM gives even a single worker its own process, to bind its threads. The two processes then
    # busy-wait for each other until a second after the last request, which occupies a second core.
    if config.num_devices == 1 and os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind":
        settings["distributed_executor_backend"] = UniProcExecutor
    return settings
