"""vLLM's own engine arguments in `engine.extra`: which are refused, and whether vLLM knows the others.

What is refused is known without vLLM, so `etr plan` finds it. Other names are compared with those of the
installed vLLM, by the replica that loads the model.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

_ONE_TOKEN = "experts and words are compared once per token, and this proposes several at a time; remove it"
_ONE_NODE = "the ranks of a replica share the memory of one node; use resources.tensor_parallel"
_REPLICAS = "Ray Serve starts the replicas; use autoscaling.min_replicas and max_replicas"
_QUEUES = "the router queues and refuses calls; use max_streams, and routing.deadlines.queue_s"
_TOKENIZER = "the engine has a tokenizer of its own, from the model's folder; change the files there"
_REQUESTS = "sampling settings come from the request alone; remove it"
_TEXT_ONLY = "the engine only generates text; remove it"

REFUSED_ARGUMENTS = {
    # Settings of cluster.yaml.
    "model": "use model: {path: …}",
    "model_weights": "use model: {uri: …}",
    "revision": "use model: {revision: …}",
    "code_revision": "use model: {revision: …}",
    "hf_token": "models are not downloaded from the hub; set HF_TOKEN where you fill its cache",
    "trust_remote_code": "use model: {trust_remote_code: true}",
    "served_model_name": "use the name of the model in cluster.yaml",
    "dtype": "use engine.dtype",
    "max_model_len": "use engine.max_model_len",
    "max_num_seqs": "use engine.max_streams",
    "max_num_batched_tokens": "use engine.max_batch_tokens",
    "kv_cache_memory_bytes": "use engine.cache_bytes",
    "gpu_memory_utilization": "use engine.gpu_memory_utilization",
    "kv_cache_dtype": "use engine.kv_cache_dtype",
    "quantization": "use engine.quantization",
    "compilation_config": "use engine.compilation",
    "enable_prefix_caching": "use engine.prefix_caching",
    "enforce_eager": "use engine.enforce_eager",
    "tensor_parallel_size": "use resources.tensor_parallel",
    "pipeline_parallel_size": "use resources.pipeline_parallel",
    "enable_lora": "use engine.max_adapters",
    "max_loras": "use engine.max_adapters",
    "max_lora_rank": "use engine.max_adapter_rank",
    # Arguments that would break routing, or have no effect here.
    "worker_cls": "the worker scores the experts; remove it",
    "worker_extension_cls": "the worker's extension scores the experts; remove it",
    "scheduler_cls": "the engine's own keeps the blocks of adapters and of their base apart; remove it",
    "logits_processors": "they would change logits after experts and words were compared; remove it",
    "speculative_config": _ONE_TOKEN,
    "spec_method": _ONE_TOKEN,
    "spec_model": _ONE_TOKEN,
    "spec_tokens": _ONE_TOKEN,
    "diffusion_config": _ONE_TOKEN,
    "enable_batch_sharded_sampling": "each rank would see the logits of some rows only; remove it",
    "enable_trace_replay": "it replaces the tokens that the model chooses; remove it",
    "watermark_config": "vLLM's older model runner, which routing needs, has no watermarks; remove it",
    "generation_config": _REQUESTS,
    "override_generation_config": _REQUESTS,
    "skip_tokenizer_init": _TOKENIZER,
    "language_model_only": "use modalities: [text]",
    "mm_processor_cache_gb": "a request that is cancelled would break the cache for others; remove it",
    "tokenizer": _TOKENIZER,
    "tokenizer_mode": _TOKENIZER,
    "tokenizer_revision": _TOKENIZER,
    "tokens_only": _TOKENIZER,
    "runner": _TEXT_ONLY,
    "convert": _TEXT_ONLY,
    "pooler_config": _TEXT_ONLY,
    "enable_prompt_embeds": _TEXT_ONLY,
    "max_num_queued_reqs": _QUEUES,
    "max_num_queued_tokens": _QUEUES,
    "enable_log_requests": "prompts are not logged; remove it",
    "disable_log_stats": "the replica reports vLLM's figures itself; see the metrics",
    "distributed_executor_backend": "it follows from resources; remove it",
    "device_ids": "Ray assigns the GPUs; use resources",
    "prefill_context_parallel_size": "resources reserves no GPUs for it; use resources.tensor_parallel",
    "nnodes": _ONE_NODE,
    "node_rank": _ONE_NODE,
    "master_addr": _ONE_NODE,
    "master_port": _ONE_NODE,
    "data_parallel_size": _REPLICAS,
    "data_parallel_rank": _REPLICAS,
    "data_parallel_start_rank": _REPLICAS,
    "data_parallel_size_local": _REPLICAS,
    "data_parallel_address": _REPLICAS,
    "data_parallel_rpc_port": _REPLICAS,
    "data_parallel_hybrid_lb": _REPLICAS,
    "data_parallel_external_lb": _REPLICAS,
    "data_parallel_multi_port_external_lb": _REPLICAS,
    "data_parallel_backend": _REPLICAS,
    "enable_elastic_ep": _REPLICAS,
    "elastic_ep_max_dp_size": _REPLICAS,
}


def require_settable(names: Iterable[str]) -> None:
    """Check the keys of `engine.extra`. Raises ValueError, with the remedy."""
    for name in names:
        if name in REFUSED_ARGUMENTS:
            raise ValueError(f"extra.{name} cannot be set: {REFUSED_ARGUMENTS[name]}")


def require_known(names: Iterable[str], known: Collection[str]) -> None:
    """`known`: the names of vLLM's arguments. Raises ValueError, with a similar name."""
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            remedy = f"did you mean {similar[0]}?" if similar else "remove it"
            raise ValueError(f"engine.extra.{name} is not an engine argument of vLLM; {remedy}")
