"""The fields that change nothing here, whatever their value."""

from __future__ import annotations

from router.api.fields.table import NoEffectField as F

_LABEL = "A label for the records of a provider"
_HINT = "A hint about caches; answers do not depend on it"
_PART = "A parameter of a sampler that is refused"
_MEDIA = "It concerns how a server reads pictures, which remote experts decide for themselves"

NO_EFFECT: tuple[F, ...] = (
    F("user", "OVS", _LABEL),
    F("metadata", "O", _LABEL),
    F("safety_identifier", "O", _LABEL),
    F("custom_labels", "S", _LABEL),
    F("extra_key", "S", _LABEL),
    F(
        "session_id",
        "VS",
        "Conversations find the replica with their beginning by themselves",
    ),
    F("prediction", "O", "It can make an answer faster, and does not change it"),
    F("prompt_cache_key", "O", _HINT),
    F("prompt_cache_options", "O", _HINT),
    F("prompt_cache_retention", "O", _HINT),
    F("cache_prompt", "L", _HINT),
    F("n_cache_reuse", "L", _HINT),
    F("n_keep", "L", "Prompts are never shifted; one that is too long is refused"),
    F("n_discard", "L", "Prompts are never shifted; one that is too long is refused"),
    F("stream_interval", "V", "Text is sent as soon as it is there"),
    F("sse_ping_interval", "L", "Silent streams get heartbeats anyway"),
    F("guided_decoding_backend", "V", "There is one backend"),
    F("media_io_kwargs", "V", _MEDIA),
    F("mm_processor_kwargs", "V", _MEDIA),
    F("mm_payload", "V", _MEDIA),
    F("return_mm_kwargs", "V", _MEDIA),
    F("images_config", "S", _MEDIA),
    F("max_dynamic_patch", "S", _MEDIA),
    F("min_dynamic_patch", "S", _MEDIA),
    F("use_audio_in_video", "S", _MEDIA),
    F("return_token_offsets", "V", "It concerns vLLM's render endpoints only"),
    F("routed_experts_prompt_start", "V", "It concerns the routing inside a mixture of experts"),
    F("routed_experts_start_len", "S", "It concerns the routing inside a mixture of experts"),
    F("dynatemp_exponent", "L", _PART),
    F("repeat_last_n", "L", _PART),
    F("dry_base", "L", _PART),
    F("dry_allowed_length", "L", _PART),
    F("dry_penalty_last_n", "L", _PART),
    F("dry_sequence_breakers", "L", _PART),
    F("xtc_threshold", "L", _PART),
    F("mirostat_tau", "L", _PART),
    F("mirostat_eta", "L", _PART),
    F("adaptive_decay", "L", _PART),
)
