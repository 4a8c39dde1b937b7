"""The items of a request become the messages of a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.body import parse
from router.api.sse import to_json
from router.dialects.responses.items import MAX_ITEMS, seal, unseal
from router.dialects.responses.request import ResponsesRequest
from router.errors import InvalidRequest
from router.prompt import Message, ToolCall

USER = {"role": "user", "content": "9?"}


def messages(items: Any, **fields: Any) -> list[Message]:
    [prompt] = parse(ResponsesRequest, to_json({"input": items, **fields})).to_chat().prompts()
    return list(prompt.messages or ())


def refusal(items: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        messages(items, **fields)
    return refused.value


def call(call_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **fields}


def result(call_id: str, output: Any = "r") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thoughts(**fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], **fields}


def said(*texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": parts}


def test_a_text_is_a_message_of_the_user():
    assert messages("9?") == [Message("user", "9?")]


def test_parts_of_text_are_lines():
    content = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert messages([{"role": "user", "content": content}]) == [Message("user", "a\nb")]


def test_the_system_messages_at_the_beginning_are_one():
    items = [{"role": "developer", "content": "b"}, {"role": "system", "content": "c"}, USER]
    assert messages(items, instructions="a") == [Message("system", "a\n\nb\n\nc"), Message("user", "9?")]


def test_a_later_system_message_stays_where_it_is():
    items = [USER, {"role": "developer", "content": "b"}]
    assert [message.role for message in messages(items, instructions="a")] == ["system", "user", "system"]


def test_what_an_assistant_does_in_a_row_is_one_message():
    items = [
        USER,
        thoughts(content=[{"type": "reasoning_text", "text": "hm"}]),
        said("I call", "two"),
        call("a"),
        call("b"),
        said("now"),
        result("a"),
        result("b", [{"type": "input_text", "text": "s"}]),
    ]
    assert messages(items)[1:] == [
        Message(
            "assistant",
            "I call\ntwo\nnow",
            tool_calls=(ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}")),
            reasoning="hm",
        ),
        Message("tool", "r", tool_call_id="a"),
        Message("tool", "s", tool_call_id="b"),
    ]


def test_results_may_stand_between_calls():
    roles = [message.role for message in messages([USER, call("a"), result("a"), call("b"), result("b")])]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]


def test_thoughts_without_an_answer_are_dropped():
    items = [USER, thoughts(content=[{"type": "reasoning_text", "text": "hm"}]), USER]
    assert [message.role for message in messages(items)] == ["user", "user"]


def test_a_refusal_is_what_the_assistant_said():
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert messages([USER, refused])[1] == Message("assistant", "No.")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"content": [{"type": "reasoning_text", "text": "a"}], "encrypted_content": seal("b")}, "a"),
        ({"encrypted_content": seal("b é\ud800")}, "b é\ud800"),
        (
            {
                "encrypted_content": "gAAAA-of-another-server",
                "summary": [{"type": "summary_text", "text": "c"}],
            },
            "c",
        ),
        ({"encrypted_content": "gAAAA-of-another-server"}, None),
        ({"encrypted_content": "thoughts:%"}, None),
        ({}, None),
    ],
)
def test_thoughts_come_back_in_the_form_that_the_client_has_kept(fields: dict[str, Any], wanted: str | None):
    assert messages([USER, thoughts(**fields), said("so")])[1] == Message("assistant", "so", reasoning=wanted)


PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
PDF = {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}


def test_sealed_thoughts_can_be_read_again():
    assert unseal(seal("thoughts é")) == "thoughts é"
    assert unseal("thoughts:AAA") == ""


def test_pictures_and_files_stand_where_the_user_put_them():
    content = [{"type": "input_text", "text": "a"}, PICTURE, {"type": "input_text", "text": "b"}, PDF]
    [message] = messages([{"role": "user", "content": content}])
    assert message.content == "a\n[image]\nb\n[file]"
    picture, pdf = message.media
    assert (picture.url, picture.detail) == ("data:image/png;base64,AAAA", "low")
    assert (pdf.modality, pdf.url, pdf.name) == ("file", "data:application/pdf;base64,AAAA", "a.pdf")


def test_a_call_of_a_namespace_has_the_name_that_models_see():
    [_, message] = messages([USER, call("a", namespace="ns")])
    assert message.tool_calls == (ToolCall("a", "ns__f", "{}"),)


@pytest.mark.parametrize(
    ("item", "param", "remedy"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input.1.type", "send the item itself"),
        ({"id": "msg_1"}, "input.1.type", "send the item itself"),
        ({"type": "web_search_call", "id": "ws_1"}, "input.1.type", "send one of message"),
        (
            {"role": "user", "content": [{"type": "input_text", "text": ""}, {"type": "input_audio"}]},
            "input.1.content.1.type",
            "/v1/chat/completions",
        ),
        (result("a", [{"type": "input_file"}]), "input.1.output.0.type", "a message of the user"),
    ],
)
def test_an_item_that_is_not_supported_is_refused_by_name(item: Any, param: str, remedy: str):
    refused = refusal([USER, item])
    assert (refused.param, refused.code) == (param, "unsupported_parameter")
    assert refused.message.startswith(f"{param}: ")
    assert remedy in refused.message


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (5, "input.1"),
        ({"type": 5}, "input.1.type"),
        ({"role": "robot", "content": ""}, "input.1.role"),
        ({"role": "user"}, "input.1.content"),
        ({"role": "user", "content": 5}, "input.1.content"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input.1.content.0.text"),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
            "input.1.content.0.image_url",
        ),
        ({"role": "system", "content": [PICTURE]}, "input.1.content"),
        ({"type": "function_call", "call_id": "a", "name": "f"}, "input.1.arguments"),
        ({"type": "function_call_output", "output": "r"}, "input.1.call_id"),
    ],
)
def test_an_invalid_item_is_refused_where_it_stands(item: Any, param: str):
    assert refusal([USER, item]).param == param


@pytest.mark.parametrize("items", [[], 5, [USER] * (MAX_ITEMS + 1), [thoughts()], [call("a")] * 129])
def test_invalid_input_is_refused(items: Any):
    assert refusal(items).param == "input"


def test_no_error_is_about_a_field_of_the_chat_request():
    """All fields are checked under their own names."""
    fields: list[dict[str, Any]] = [
        {"max_output_tokens": 0},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "name": "f"}] * 129},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "name": "auto"}},
        {"tool_choice": {"type": "allowed_tools", "mode": "none"}},
        {
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}],
            }
        },
        {"text": {"format": {"type": "json_schema"}}},
        {"text": {"format": {"type": "json_object"}}, "guided_json": {}},
        {"top_logprobs": 2},
        {"stream_options": {}},
        {"include": ["everything"]},
        {"reasoning": {"effort": "infinite"}},
        {"metadata": {"a": 5}},
        {"chat_template_kwargs": {"messages": []}},
        {"min_tokens": 5, "max_output_tokens": 4},
    ]
    for each in fields:
        assert (refusal("9?", **each).param or "").split(".")[0] in each


def test_allowed_tools_hide_all_others():
    tools = [{"type": "function", "name": name} for name in ("f", "g")]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": tools[1:]}
    asked = parse(ResponsesRequest, to_json({"input": "9?", "tools": tools, "tool_choice": choice}))
    chat = asked.to_chat()
    assert ([tool.function.name for tool in chat.tools], chat.tool_choice) == (["g"], "auto")


@pytest.mark.parametrize(
    "kind", ["web_search", "file_search", "mcp", "custom", "local_shell", "computer", "code_interpreter"]
)
def test_a_tool_that_the_server_would_have_to_run_is_refused_by_name(kind: str):
    refused = refusal("9?", tools=[{"type": kind, "name": "a"}])
    assert (refused.param, refused.code) == ("tools.0.type", "unsupported_parameter")
    assert kind in refused.message
