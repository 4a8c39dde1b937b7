"""A request of this dialect stands for a chat request, or is refused by name."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params

from router.api.body import parse
from router.api.requests import ChatRequest
from router.api.sse import to_json
from router.dialects.messages.fields import HONOURED, NO_EFFECT, REFUSED
from router.dialects.messages.request import CountTokensRequest, MessagesRequest
from router.errors import InvalidRequest

QUESTION = {"role": "user", "content": "9?"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def chat(**fields: Any) -> ChatRequest:
    return parse(MessagesRequest, to_json({"max_tokens": 9, "messages": [QUESTION], **fields})).to_chat()


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        chat(**fields)
    return refused.value


def said(*messages: dict[str, Any], **fields: Any) -> list[tuple[str, str]]:
    [prompt] = chat(messages=list(messages), **fields).prompts()
    return [(message.role, message.content) for message in prompt.messages or ()]


@pytest.mark.parametrize("kind", [MessagesRequest, CountTokensRequest])
def test_the_honoured_fields_are_those_of_the_request_models(kind: type[CountTokensRequest]):
    [endpoint] = {"MessagesRequest": ["/v1/messages"]}.get(kind.__name__, ["/v1/messages/count_tokens"])
    assert {field.name for field in HONOURED if endpoint in field.endpoints} == kind.model_fields.keys()


def test_every_field_of_the_sdk_is_known():
    known = {field.name for fields in (HONOURED, REFUSED, NO_EFFECT) for field in fields}
    documented = {
        *message_create_params.MessageCreateParamsStreaming.__annotations__,
        *get_type_hints(message_create_params.MessageCreateParamsBase),
        *get_type_hints(beta_params.MessageCreateParamsBase),
        *get_type_hints(message_count_tokens_params.MessageCountTokensParams),
    }
    assert len(documented) > 25
    assert documented - known == {"betas"}  # a header


@pytest.mark.parametrize("field", REFUSED, ids=lambda field: field.name)
def test_a_refusal_names_the_field_and_the_remedy(field: Any):
    refused = refusal(**{field.name: {"some": "thing"}})
    assert (refused.param, refused.code) == (field.name, "unsupported_parameter")
    assert field.remedy in str(refused)
    for value in (None, *field.accepted):
        assert chat(**{field.name: value}) == chat()


@pytest.mark.parametrize("field", NO_EFFECT, ids=lambda field: field.name)
def test_a_field_without_effect_is_accepted_with_any_value(field: Any):
    for value in (None, "x", {"type": "ephemeral"}):
        assert chat(**{field.name: value}) == chat()


def test_the_options_are_those_of_chat_completions():
    asked = chat(
        model="generalist/roman",
        stop_sequences=["a", "b"],
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        routing={"exclude": ["morse"]},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    )
    assert (asked.model, asked.max_tokens, asked.stop) == ("generalist/roman", 9, ["a", "b"])
    assert (asked.temperature, asked.top_p, asked.top_k) == (0.5, 0.25, 7)
    assert asked.routing is not None
    assert asked.routing.exclude == ["morse"]
    assert asked.reasoning_effort == "high"
    assert asked.grammar is not None
    assert asked.grammar.source == '{"type": "object"}'


def test_the_system_prompt_is_a_message_before_the_others():
    assert said(QUESTION, system="Be brief.")[0] == ("system", "Be brief.")
    blocks = [
        {"type": "text", "text": "Be"},
        {"type": "text", "text": "brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    assert said(QUESTION, system=blocks) == [("system", "Be\nbrief."), ("user", "9?")]


def test_results_of_calls_are_messages_of_their_own_and_texts_in_a_row_are_one():
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": "one"},
        {
            "type": "tool_result",
            "tool_use_id": "b",
            "is_error": True,
            "content": [{"type": "text", "text": "no"}],
        },
        {"type": "tool_result", "tool_use_id": "c"},
        {"type": "text", "text": "Go"},
        {"type": "text", "text": "on."},
    ]
    calls = [{"type": "tool_use", "id": name, "name": "f", "input": {"x": 1}} for name in "abc"]
    history = ({"role": "assistant", "content": calls}, {"role": "user", "content": results}, QUESTION)
    assert said(QUESTION, *history) == [
        ("user", "9?"),
        ("assistant", ""),
        ("tool", "one"),
        ("tool", "Error: no"),
        ("tool", ""),
        ("user", "Go\non.\n9?"),
    ]


def test_what_the_assistant_wrote_is_one_message():
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
        {"type": "redacted_thinking", "data": "abc"},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}, "caller": {"type": "direct"}},
    ]
    [prompt] = chat(messages=[QUESTION, {"role": "assistant", "content": blocks}, QUESTION]).prompts()
    written = (prompt.messages or ())[1]
    assert (written.content, written.reasoning) == ("Let me see.", "Hm.")
    assert [(call.id, call.name, call.arguments) for call in written.tool_calls] == [("a", "f", '{"x": 1}')]


def test_a_last_text_of_the_assistant_is_continued():
    [prompt] = chat(messages=[QUESTION, {"role": "assistant", "content": "It is"}]).prompts()
    assert (prompt.written, len(prompt.messages or ())) == ("It is", 1)
    assert refusal(messages=[{"role": "assistant", "content": "It is"}]).param == "messages"


def test_tools_and_the_choice_among_them():
    asked = chat(
        tools=[{**TOOL, "description": "d", "cache_control": {"type": "ephemeral"}, "type": "custom"}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    options = asked.tool_options()
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert options["tools"] == ({"type": "function", "function": function},)
    assert (options["tool_choice"], options["parallel_tool_calls"]) == ("required", False)
    chosen = chat(tools=[TOOL], tool_choice={"type": "tool", "name": "f"}).tool_options()
    assert (chosen["tool_choice"], chosen["parallel_tool_calls"]) == ("f", True)
    for mode in ("auto", "none"):
        assert chat(tools=[TOOL], tool_choice={"type": mode}).tool_options()["tool_choice"] == mode
    assert refusal(tools=[TOOL], tool_choice={"type": "tool", "name": "g"}).param == "tool_choice"
    assert refusal(tools=[TOOL], tool_choice={"type": "tool"}).param == "tool_choice.name"
    assert refusal(tool_choice={"type": "any"}).param == "tool_choice"


@pytest.mark.parametrize(
    ("thinking", "variables", "shown"),
    [
        (None, {}, True),
        ({"type": "enabled", "budget_tokens": 2048}, {"enable_thinking": True, "thinking": True}, True),
        ({"type": "disabled"}, {"enable_thinking": False, "thinking": False}, False),
        ({"type": "adaptive"}, {}, True),
        ({"type": "adaptive", "display": "omitted"}, {}, False),
    ],
)
def test_thinking_sets_the_variables_of_the_template(
    thinking: dict[str, Any] | None, variables: dict[str, Any], shown: bool
):
    asked = chat(thinking=thinking)
    assert (asked.template_kwargs, asked.include_reasoning) == (variables, shown)


def _user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (_user({"type": "document", "source": {}}), "messages.0.content.0", "send its text"),
        (
            _user({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "document"}]}),
            "messages.0.content.0.tool_result.content.0",
            "document",
        ),
        (_user({"type": "server_tool_use"}), "messages.0.content.0", "Anthropic's servers"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools.0.type",
            "web_search_20250305",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type", "offer a tool with a name"),
    ],
)
def test_what_no_model_here_can_do_is_refused_by_name(fields: dict[str, Any], param: str, words: str):
    refused = refusal(**fields)
    assert (refused.param, refused.code) == (param, "unsupported_parameter")
    assert words in str(refused)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        (_user({"type": "tool_use", "id": "a", "name": "f", "input": {}}), "messages.0.content"),
        (_user({"type": "image", "source": {"type": "url"}}), "messages.0.content.0.image.source"),
        (_user({"type": "image", "source": {"type": "file"}}), "messages.0.content.0.image.source.type"),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "messages.0.content"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 9}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"system": 5}, "system"),
        ({"routing": {"tracing": True}}, "routing.tracing"),
    ],
)
def test_a_wrong_value_is_named(fields: dict[str, Any], param: str):
    assert refusal(**fields).param == param


def test_images_of_the_user_stand_where_the_client_put_them():
    elsewhere = {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}}
    text = {"type": "text", "text": "Compare"}
    [prompt] = chat(**_user(text, IMAGE, elsewhere)).prompts()
    [message] = prompt.messages or ()
    assert message.content == "Compare\n[image]\n[image]"
    assert [each.url for each in message.media] == [
        "data:image/png;base64,iVBORw0KGgo=",
        "https://pictures.example/a.png",
    ]
