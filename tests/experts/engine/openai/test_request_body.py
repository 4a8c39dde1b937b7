"""The fields that a server gets: under its names, and only what the request asks."""

from __future__ import annotations

from typing import Any

import pytest

from experts.engine.openai.request_body import OPTION_FIELDS, chat_fields, openai_messages, sampling_fields
from experts.engine.request import ChatOptions, Grammar, GrammarKind, SamplingOptions

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_options_that_ask_for_nothing_are_not_sent():
    assert sampling_fields(SamplingOptions(), is_chat=True) == {}
    assert chat_fields(ChatOptions()) == {}


def test_sampling_options_have_the_names_of_vllms_server():
    options = SamplingOptions(
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=0.5,
        repetition_penalty=1.2,
        logit_bias={7: -100.0},
        min_tokens=3,
        ignore_eos=True,
        stop_token_ids=(1, 2),
        bad_words=("no",),
        allowed_token_ids=(3,),
        num_logprobs=0,
    )
    fields = {
        "min_p": 0.1,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {"7": -100.0},
        "min_tokens": 3,
        "ignore_eos": True,
        "stop_token_ids": [1, 2],
        "bad_words": ["no"],
        "allowed_token_ids": [3],
    }
    chat = sampling_fields(options, is_chat=True)
    assert chat == {**fields, "logprobs": True, "top_logprobs": 0}
    assert sampling_fields(options, is_chat=False) == {**fields, "logprobs": 0}
    assert chat.keys() <= OPTION_FIELDS


@pytest.mark.parametrize(
    ("grammar", "fields"),
    [
        (Grammar(GrammarKind.JSON_OBJECT), {"response_format": {"type": "json_object"}}),
        (
            Grammar(GrammarKind.JSON_SCHEMA, '{"type": "null"}'),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "null"}, "strict": True},
                }
            },
        ),
        (Grammar(GrammarKind.REGEX, "a+"), {"structured_outputs": {"regex": "a+"}}),
        (Grammar(GrammarKind.CHOICE, '["a", "b"]'), {"structured_outputs": {"choice": ["a", "b"]}}),
    ],
)
def test_grammars_are_sent_as_servers_take_them(grammar: Grammar, fields: dict[str, Any]):
    assert sampling_fields(SamplingOptions(grammar=grammar), is_chat=True) == fields


def test_chat_options_have_the_names_of_vllms_server():
    options = ChatOptions(
        tools=(TOOL,),
        tool_choice="f",
        parallel_tool_calls=False,
        template_kwargs={"enable_thinking": False},
        documents=({"text": "d"},),
        chat_template="{{ x }}",
        truncate_prompt_tokens=9,
        add_generation_prompt=False,
    )
    fields = chat_fields(options)
    assert fields == {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": False},
        "documents": [{"text": "d"}],
        "chat_template": "{{ x }}",
        "truncate_prompt_tokens": 9,
        "add_generation_prompt": False,
    }
    assert fields.keys() <= OPTION_FIELDS
    assert chat_fields(ChatOptions(tools=(TOOL,)))["tool_choice"] == "auto"


def test_thoughts_in_a_conversation_have_the_name_that_servers_know():
    (message,) = openai_messages(
        ({"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": []},)
    )
    assert message == {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": []}
