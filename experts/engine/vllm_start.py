"""Starts vLLM with our settings in its words."""

from __future__ import annotations

import os
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from experts.checkpoint import Checkpoint
from experts.engine.config import VllmConfig
from experts.engine.model_text import ModelText
from experts.engine.vllm_adapters import Adapters
from experts.engine.vllm_stats import SchedulerWatch
from experts.engine.vllm_worker import ExpertWorker
from experts.errors import ModelLoadError

CPU_MEMORY_FRACTION = 0.25  # where nothing is asked for: other replicas use the machine's memory too


def start(checkpoint: Checkpoint, config: VllmConfig, text: ModelText, watch: SchedulerWatch) -> AsyncLLM:
    """Starts its processes, which takes from seconds to minutes. Raises ModelLoadError."""
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
        "max_lora_rank": config.max_adapter_rank,
    }
    settings = _of_cpus(config) if current_platform.is_cpu() else {}
    settings |= {name: value for name, value in optional.items() if value is not None}
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
        enable_lora=config.max_adapters > 0,
        max_loras=config.max_adapters + Adapters.NUM_SPARE_SLOTS,
        worker_extension_cls=f"{ExpertWorker.__module__}.{ExpertWorker.__qualname__}",
        generation_config="vllm",  # sampling is as the call says
        disable_log_stats=True,
        **settings,
    )


def _of_cpus(config: VllmConfig) -> dict[str, Any]:
    of_cpus: dict[str, Any] = {"gpu_memory_utilization": CPU_MEMORY_FRACTION}
    # To bind its threads, vLLM gives even a single worker a process of its own on CPUs. The two of them wait
    # for each other in busy loops, a second longer than there is work: a second processor's whole time.
    if config.tensor_parallel == 1 and os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind":
        of_cpus["distributed_executor_backend"] = UniProcExecutor
    return of_cpus
