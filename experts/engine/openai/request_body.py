"""What a request asks, under the names that OpenAI's API and vLLM's server have for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experts.engine.request import ChatOptions, Grammar, GrammarKind, SamplingOptions
from experts.errors import InvalidCall

# Options with the same name and form as in the request's own type.
_SAME = (
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
)
_LISTS = ("stop_token_ids", "bad_words", "allowed_token_ids")
_CHAT = ("chat_template", "truncate_prompt_tokens")
# By which a server's refusal of one of them is told from others.
OPTION_FIELDS = frozenset(
    {*_SAME, *_LISTS, *_CHAT, "logit_bias", "logprobs", "top_logprobs", "response_format"}
    | {"structured_outputs", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs"}
    | {"input", "dimensions", "documents", "add_generation_prompt", "top_k", "seed", "temperature", "top_p"}
)


def sampling_fields(options: SamplingOptions, *, is_chat: bool) -> dict[str, Any]:
    """Only what differs from the defaults, because servers may not know the names.

    Raises InvalidCall: no server streams the log-probabilities of prompts.
    """
    if options.num_prompt_logprobs is not None:
        message = "prompt_logprobs: the server of this model does not stream them"
        raise InvalidCall("unsupported_value", "prompt_logprobs", message)
    default = SamplingOptions()
    fields = {
        name: getattr(options, name) for name in _SAME if getattr(options, name) != getattr(default, name)
    }
    fields |= {name: list(getattr(options, name)) for name in _LISTS if getattr(options, name)}
    if options.logit_bias:
        fields["logit_bias"] = {str(token_id): bias for token_id, bias in options.logit_bias.items()}
    if options.num_logprobs is not None:
        fields |= _logprob_fields(options.num_logprobs, is_chat)
    if options.grammar is not None:
        fields |= _grammar_fields(options.grammar)
    return fields


def chat_fields(options: ChatOptions) -> dict[str, Any]:
    """As `sampling_fields`."""
    fields = {name: getattr(options, name) for name in _CHAT if getattr(options, name) is not None}
    if options.tools:
        fields |= {"tools": [*map(dict, options.tools)], "tool_choice": _tool_choice(options.tool_choice)}
        if not options.parallel_tool_calls:
            fields["parallel_tool_calls"] = False
    if options.template_kwargs:
        fields["chat_template_kwargs"] = dict(options.template_kwargs)
    if options.documents:
        fields["documents"] = [*map(dict, options.documents)]
    if not options.add_generation_prompt:
        fields["add_generation_prompt"] = False
    return fields


def openai_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Servers call an assistant's `reasoning` `reasoning_content`."""
    return tuple(
        {"reasoning_content" if key == "reasoning" else key: value for key, value in message.items()}
        for message in messages
    )


def _logprob_fields(num: int, is_chat: bool) -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": num} if is_chat else {"logprobs": num}


def _grammar_fields(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind is GrammarKind.JSON_OBJECT:
        return {"response_format": {"type": "json_object"}}
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        schema = {"name": "answer", "schema": json.loads(grammar.source), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    is_list = grammar.kind is GrammarKind.CHOICE
    source = json.loads(grammar.source) if is_list else grammar.source
    return {"structured_outputs": {grammar.kind.value: source}}


def _tool_choice(choice: str) -> str | dict[str, Any]:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}
