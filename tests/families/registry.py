"""The families of the table, with the traits that their real checkpoints have."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from transformers import (
    Cohere2Config,
    CohereConfig,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Glm4Config,
    GptOssConfig,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from tests.families import tokenizers, vision
from tests.families.family import Family
from tests.tiny.templates import FORMATS

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
}  # fmt: skip
HARMONY_ROPE = {
    "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 128, "truncate": False,
}  # fmt: skip
DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4, "head_dim": None, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
    "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
# The older Command R's: a turn as R7B's, without its response tokens.
COMMAND_R = replace(
    FORMATS["command_r7b"], template=re.sub("<.(START|END)_RESPONSE.>", "", FORMATS["command_r7b"].template)
)
ALTERNATING = ["sliding_attention", "full_attention"]
TWO_HEADS = {"num_attention_heads": 2, "head_dim": None}  # where a head's size follows from the hidden size

FAMILIES = [
    Family(
        "Llama 2", "Llama 2 chat, TinyLlama, CodeLlama", "byte fallback; a turn is always open",
        LlamaConfig, tokenizers.llama2, FORMATS["llama2"], {"num_key_value_heads": 4},
    ),
    Family(
        "Llama 3", "Llama 3, 3.1, 3.2, 3.3", "256 control tokens; content is trimmed; default system text",
        LlamaConfig, tokenizers.llama3, FORMATS["llama3"],
        {"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
        end=("<|end_of_text|>", "<|eom_id|>"), seed=1,
    ),
    Family(
        "Llama 4", "Llama 4 Scout, Maverick: the text model", "chunked attention, layers without RoPE, MoE",
        Llama4TextConfig, tokenizers.llama4, FORMATS["llama4"],
        {"intermediate_size_mlp": 96, "num_local_experts": 4, "num_experts_per_tok": 1,
         "attention_chunk_size": 128, "no_rope_layers": [1, 0], "interleave_moe_layer_step": 1},
        end=("<|end_of_text|>", "<|eom|>"), seed=4,
    ),
    Family(
        "Mistral 7B", "Mistral 7B Instruct 0.2, 0.3", "byte fallback; turn always open",
        MistralConfig, tokenizers.mistral_v3, FORMATS["mistral_v3"], {"sliding_window": None},
    ),
    Family(
        "Mistral 7B 0.1", "Mistral 7B Instruct 0.1, Zephyr", "sliding window in every layer",
        MistralConfig, tokenizers.llama2, FORMATS["mistral_v3"], {"sliding_window": 24}, seed=1,
    ),
    Family(
        "Mistral Nemo", "Mistral Nemo, Ministral", "tekken: 1,000 control tokens; wide heads",
        MistralConfig, tokenizers.tekken, FORMATS["mistral_nemo"], {"sliding_window": None, "head_dim": 64},
    ),
    Family(
        "Mistral Small", "Mistral Small 24B 2501", "tekken; a system section; default system text",
        MistralConfig, tokenizers.tekken, FORMATS["mistral_small"], {"sliding_window": None}, seed=1,
    ),
    Family(
        "Mistral Small 3.1", "Mistral Small 3.1, 3.2; text only", "a model for images too",
        vision.mistral3, tokenizers.tekken, FORMATS["mistral_small"], {"sliding_window": None},
        create=Mistral3ForConditionalGeneration, seed=1,
    ),
    Family(
        "Qwen 2.5", "Qwen 2.5, Qwen 2.5 Coder, QwQ", "padded head; biased projections; default system text",
        Qwen2Config, tokenizers.qwen2, FORMATS["qwen25"],
        {"tie_word_embeddings": True, "head_dim": None, **TWO_HEADS}, end=("<|endoftext|>",), padding=64,
    ),
    Family(
        "Qwen 3", "Qwen 3 0.6B to 32B", "query and key norms; optional think block",
        Qwen3Config, tokenizers.qwen3, FORMATS["qwen3"], {"tie_word_embeddings": True},
        end=("<|endoftext|>",), padding=64, seed=2,
    ),
    Family(
        "Qwen 3 MoE", "Qwen 3 30B-A3B, 235B-A22B (Instruct)", "MoE; query and key norms",
        Qwen3MoeConfig, tokenizers.qwen3, FORMATS["qwen3"],
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
        end=("<|endoftext|>",), padding=64,
    ),
    Family(
        "Qwen 3 Thinking", "Qwen 3 Thinking 2507", "the prompt opens a think block",
        Qwen3Config, tokenizers.qwen3, FORMATS["qwen3_thinking"], {},
        end=("<|endoftext|>",), padding=64,
    ),
    Family(
        "Gemma 2", "Gemma 2", "capped logits; alternating sliding windows; no system role",
        Gemma2Config, tokenizers.gemma2, FORMATS["gemma2"],
        {"sliding_window": 24, "layer_types": ALTERNATING, "query_pre_attn_scalar": 32,
         "final_logit_softcapping": 8.0, "attn_logit_softcapping": 10.0}, end=("<end_of_turn>",), seed=2,
    ),
    Family(
        "Gemma 3", "Gemma 3 270M, 1B", "thousands of added tokens; sliding windows with a RoPE of their own",
        Gemma3TextConfig, tokenizers.gemma3, FORMATS["gemma3"],
        {"sliding_window": 24, "layer_types": ALTERNATING, "query_pre_attn_scalar": 32},
        end=("<end_of_turn>",), padding=64, seed=3,
    ),
    Family(
        "Gemma 3 with images", "Gemma 3 4B, 12B, 27B; text only", "a model for images too",
        vision.gemma3, tokenizers.gemma3, FORMATS["gemma3"],
        {"sliding_window": 24, "layer_types": ALTERNATING, "query_pre_attn_scalar": 32},
        end=("<end_of_turn>",), padding=64, create=Gemma3ForConditionalGeneration, seed=2,
    ),
    Family(
        "Phi 3", "Phi 3, Phi 3.5 mini and medium", "fused projections; role tokens swallow blanks",
        Phi3Config, tokenizers.phi3, FORMATS["phi3"], {**TWO_HEADS, "sliding_window": 64},
        end=("<|end|>", "<|assistant|>"), padding=32,
    ),
    Family(
        "Phi 4", "Phi 4, Phi 4 Reasoning", "Phi 3's architecture with a byte-level tokenizer",
        Phi3Config, tokenizers.phi4, FORMATS["phi4"], {**TWO_HEADS},
        end=("<|endoftext|>",), padding=32, seed=1,
    ),
    Family(
        "Phi 4 mini", "Phi 4 mini", "partial RoPE; tied head; the template ends in eos where no turn is open",
        Phi3Config, tokenizers.phi4_mini, FORMATS["phi4_mini"],
        {**TWO_HEADS, "tie_word_embeddings": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
        end=("<|end|>",),
    ),
    Family(
        "DeepSeek R1 distills", "R1 Distill Qwen 1.5B to 32B", "the prompt opens a think block",
        Qwen2Config, tokenizers.deepseek, FORMATS["deepseek_r1"], {**TWO_HEADS}, padding=64,
    ),
    Family(
        "DeepSeek R1 distills of Llama", "R1 Distill Llama 8B, 70B", "names the wrong class of tokenizer",
        LlamaConfig, tokenizers.deepseek, FORMATS["deepseek_r1"], {}, seed=1,
    ),
    Family(
        "DeepSeek V3", "DeepSeek V3, R1", "latent attention (MLA); grouped MoE",
        DeepseekV3Config, tokenizers.deepseek, FORMATS["deepseek_v3"], DEEPSEEK, seed=2,
    ),
    Family(
        "gpt-oss", "gpt-oss 20B, 120B", "attention sinks; MoE; sliding windows; channels in the turn",
        GptOssConfig, tokenizers.harmony, FORMATS["harmony"],
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24, "layer_types": ALTERNATING,
         "rope_parameters": HARMONY_ROPE},
        end=("<|endoftext|>", "<|call|>"), seed=7,
    ),
    Family(
        "Granite", "Granite 3", "scaled logits, embeddings, residuals and attention; default system text",
        GraniteConfig, tokenizers.granite, FORMATS["granite"],
        {**TWO_HEADS, "tie_word_embeddings": True, "embedding_multiplier": 12.0, "logits_scaling": 8.0,
         "residual_multiplier": 0.5, "attention_multiplier": 0.1}, seed=9,
    ),
    Family(
        "OLMo 2", "OLMo 2", "norms behind the layers; role marks that are ordinary text",
        Olmo2Config, tokenizers.olmo2, FORMATS["olmo2"], {**TWO_HEADS},
    ),
    Family(
        "SmolLM 2", "SmolLM 2", "default system text",
        LlamaConfig, tokenizers.smollm2, FORMATS["smollm2"], {"tie_word_embeddings": True},
    ),
    Family(
        "SmolLM 3", "SmolLM 3", "layers without RoPE; think block; system text of its own",
        SmolLM3Config, tokenizers.smollm3, FORMATS["smollm3"],
        {**TWO_HEADS, "no_rope_layers": [1, 0], "tie_word_embeddings": True}, padding=64,
    ),
    Family(
        "Command R", "Command R, R+, Aya", "scaled logits; attention and MLP in parallel",
        CohereConfig, tokenizers.command_r, COMMAND_R,
        {**TWO_HEADS, "logit_scale": 0.25, "use_qk_norm": False},
    ),
    Family(
        "Command R7B", "Command R7B, Command A", "scaled logits; layers without RoPE; response tokens",
        Cohere2Config, tokenizers.command_r, FORMATS["command_r7b"],
        # Longer than the prompts: a window of n tokens is n + 1 to vLLM, and n to transformers.
        {**TWO_HEADS, "logit_scale": 0.25, "sliding_window": 512, "layer_types": ALTERNATING}, seed=23,
    ),
    Family(
        "GLM 4", "GLM 4 9B, 32B (0414)", "partial RoPE; four norms a layer; the next role ends a turn",
        Glm4Config, tokenizers.glm4, FORMATS["glm4"],
        {"attention_bias": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        end=("<|user|>", "<|observation|>"), padding=64, seed=3,
    ),
    Family(
        "Falcon 3", "Falcon 3", "Llama's architecture; wide heads",
        LlamaConfig, tokenizers.falcon3, FORMATS["falcon3"], {"head_dim": 64},
    ),
]  # fmt: skip
