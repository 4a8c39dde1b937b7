"""Every field of Anthropic's Messages API, and what becomes of it here."""

from __future__ import annotations

from router.api.fields.table import Endpoint, HonouredField, NoEffectField, RefusedField

BOTH = (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS)
_MESSAGE = (Endpoint.MESSAGES,)


def _honoured(
    name: str, values: str, meaning: str, endpoints: tuple[Endpoint, ...] = BOTH, server: str = "A"
) -> HonouredField:
    return HonouredField(name, server, values, meaning, endpoints)


def _refused(name: str, remedy: str, *accepted: object) -> RefusedField:
    return RefusedField(name, "A", accepted, remedy, BOTH)


HONOURED = (
    _honoured("model", "a model id", "As for chat completions. By default the generalist"),
    _honoured("messages", "list", "The conversation; see [Content blocks](#content-blocks)"),
    _honoured("system", "text, or a list of text blocks", "A system message before the others"),
    _honoured("max_tokens", "≥ 1", "Required. Maximum number of tokens of the whole answer", _MESSAGE),
    _honoured("stream", "boolean", "Send the answer as Anthropic's events", _MESSAGE),
    _honoured("stop_sequences", "up to 16 strings", "Found across hand-overs", _MESSAGE),
    _honoured("temperature", "0 to 2", "0 is greedy. Default 1", _MESSAGE),
    _honoured("top_p", "above 0, up to 1", "Default 1", _MESSAGE),
    _honoured("top_k", "≥ −1", "−1 and 0 switch it off. Default 0", _MESSAGE),
    _honoured(
        "tools",
        "up to 128 tools with `name`, `description`, `input_schema`, `strict`",
        "What a model may call. Tools with another `type` than `custom` are refused by name",
    ),
    _honoured(
        "tool_choice",
        "`auto`, `any`, `tool` with a `name`, `none`",
        "Whether a model calls; `disable_parallel_tool_use`: one call at most",
    ),
    _honoured(
        "thinking",
        "`enabled`, `disabled`, `adaptive`",
        "`enabled` and `disabled` set the variable `enable_thinking` of the chat template, `adaptive` leaves "
        "it alone. `disabled`, and `display: omitted`, leave thoughts out of the answer. `budget_tokens` "
        "changes nothing: thoughts count towards `max_tokens`",
    ),
    _honoured(
        "output_config",
        "object",
        "`effort` as `reasoning_effort` of chat completions; `format` with a JSON schema for the answer",
    ),
    _honoured("routing", "object", "As for chat completions", server="R"),
    _honoured("cache_salt", "1 to 256 characters", "As for chat completions", server="R"),
)

_STORED = "nothing is stored; send the whole conversation"

REFUSED = (
    _refused("service_tier", "there is one tier", "auto", "standard_only"),
    _refused("container", "no code runs here"),
    _refused("mcp_servers", "the router calls no tools; offer them in `tools`", []),
    _refused("output_format", "send output_config.format"),
    _refused("inference_geo", "the router does not know where its models run", "global"),
    _refused("speed", "there is one speed", "standard"),
    _refused("compaction", _STORED),
    _refused("thread", _STORED),
    _refused("fallbacks", "the router chooses who goes on if a model fails", []),
)

_LABEL = "A label for the records of a provider"

NO_EFFECT = (
    NoEffectField("metadata", "A", _LABEL),
    NoEffectField("user_profile_id", "A", _LABEL),
    NoEffectField("workspace_id", "A", _LABEL),
    NoEffectField("diagnostics", "A", "It asks how well a provider's cache did"),
    NoEffectField("billing_policy", "A", "Nothing is billed"),
    NoEffectField("fallback_credit_token", "A", "Nothing is billed"),
    NoEffectField("cache_control", "A", "Models keep the beginnings of conversations by themselves"),
    NoEffectField("context_management", "A", "A conversation is read as it is sent"),
)
