"""What becomes of every field that OpenAI or vLLM documents for /v1/responses."""

from __future__ import annotations

from functools import partial

from router.api.fields.sampling import SamplingFields, StopFields
from router.api.fields.table import Endpoint, HonouredField, NoEffectField, RefusedField

_HERE = (Endpoint.RESPONSES,)
H, R, N = partial(HonouredField, endpoints=_HERE), partial(RefusedField, endpoints=_HERE), NoEffectField

_NOT_STORED = "nothing is stored; send the whole conversation as input"
_OUTPUT_TOKENS = "send max_output_tokens"
_FORMAT = "send text.format"
_CHAT = "send it to /v1/chat/completions"
_INTERNAL = "it concerns the inside of another server; leave it out"
_LABEL = "A label; the response repeats it"
_HINT = "A hint about caches; answers do not depend on it"
_MEDIA = "It concerns how a server reads pictures, which remote experts decide for themselves"

HONOURED = (
    H("input", "OV", "text, or list of items", "The whole conversation; see [Items](#items)"),
    H("instructions", "OV", "text", "The first system message"),
    H("stream", "OV", "boolean", "Send the answer as typed events while it is written"),
    H("stream_options", "OV", "object", "Its fields change nothing: the last event always has the usage"),
    H(
        "tools",
        "OV",
        "up to 128 functions",
        "Of type `function`, or in tools of type `namespace`. The client runs all of them; types that the "
        "server would have to run, and `custom`, are refused by name",
    ),
    H(
        "tool_choice",
        "OV",
        "`none`, `auto`, `required`, or an object of type `function` or `allowed_tools`",
        "Whether and what a model calls. Default `auto`",
    ),
    H(
        "text",
        "OV",
        "object",
        "`format`: of type `text`, `json_object` or `json_schema`. `verbosity`: only `medium`",
    ),
    H(
        "reasoning",
        "OV",
        "object",
        "`effort` as `reasoning_effort` of a chat request; `summary` and `context` change nothing, since "
        "thoughts come whole",
    ),
    H(
        "include",
        "OV",
        "list",
        "`message.output_text.logprobs`; `reasoning.encrypted_content`: thoughts also in base64, for clients "
        "that send back no other form. OpenAI's other values concern items that no answer here has",
    ),
    H("max_output_tokens", "OV", "≥ 1", "Maximum number of tokens, thoughts and tool calls included"),
    H("top_logprobs", "OV", "0 to 20", "Only with `message.output_text.logprobs`"),
    H(
        "truncation",
        "OV",
        "`disabled`, `auto`",
        "`auto`: a prompt that is too long loses its beginning; else it is refused",
    ),
    H("metadata", "OV", "up to 16 texts", _LABEL),
    H("user", "OV", "text", _LABEL),
    H("safety_identifier", "O", "text", _LABEL),
    H("prompt_cache_key", "OV", "text", _LABEL),
)

REFUSED = (
    R("store", "OV", (False,), "nothing is stored; send false, or leave it out"),
    R("previous_response_id", "OV", (), _NOT_STORED),
    R("conversation", "O", (), _NOT_STORED),
    R("previous_input_messages", "V", (), _NOT_STORED),
    R("background", "OV", (False,), "an answer ends with its request; send stream"),
    R("prompt", "OV", (), "there are no stored prompts; send instructions and input"),
    R("context_management", "O", ([],), "the client decides what input holds; leave it out"),
    R("moderation", "O", (), "there is no moderation; leave it out"),
    R("access_programs", "O", (), "there are none; leave it out"),
    R("service_tier", "OV", ("auto", "default"), "there is one tier; send priority"),
    R("max_tokens", "R", (), _OUTPUT_TOKENS),
    R("max_completion_tokens", "R", (), _OUTPUT_TOKENS),
    R("response_format", "R", (), _FORMAT),
    R("prompt_logprobs", "R", (), _CHAT),
    R("skip_special_tokens", "V", (True,), "control tokens are never sent; leave it out"),
    R("request_id", "V", (), "send the header x-request-id"),
    R("enable_response_messages", "V", (False,), "the answer holds no raw tokens; leave it out"),
    R("watermarking", "V", (False,), "there are no watermarks; leave it out"),
    R("vllm_xargs", "V", ({},), _INTERNAL),
    R("kv_transfer_params", "V", ({},), _INTERNAL),
    R("ec_transfer_params", "V", ({},), _INTERNAL),
)

# The fields that mean the same as in a chat request.
AS_IN_CHAT = tuple(
    sorted(
        {
            field.alias or name
            for kind in (SamplingFields, StopFields)
            for name, field in kind.model_fields.items()
        }
        - {field.name for field in REFUSED}
        | {"cache_salt", "chat_template_kwargs", "include_reasoning", "model", "parallel_tool_calls"}
        | {"priority", "routing"}
    )
)

NO_EFFECT = (
    N("max_tool_calls", "OV", "It limits tools that a server runs; here the client runs all of them"),
    N("background_options", "O", "There are no answers in the background"),
    N("image", "O", _MEDIA),
    N("prompt_cache_options", "O", _HINT),
    N("prompt_cache_retention", "O", _HINT),
    N("session_id", "V", "Conversations find the replica with their beginning by themselves"),
    N("media_io_kwargs", "V", _MEDIA),
    N("mm_processor_kwargs", "V", _MEDIA),
    N("mm_payload", "V", "It concerns vLLM's render endpoints only"),
    N("return_mm_kwargs", "V", "It concerns vLLM's render endpoints only"),
)
