"""Pictures over HTTP: who may answer, what each model reads, and what a client is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from router.dialects.app import build_app
from router.media.tool_results import INTRODUCTION
from router.model_port import Finish, ModelChunk
from router.table import ModelEntry, RouteTable
from tests.fakes.models import FakeGateway, FakeModel, models, writes
from tests.router.media.pictures import data_uri, picture

URL = data_uri(picture())
LOOK = [
    {"type": "text", "text": "What is"},
    {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
    {"type": "text", "text": "?"},
]
SEES = ("text", "image")


def cluster(*seeing: str, **changes: Any) -> FakeGateway:
    """The meta prefers `roman`, but a word to both experts."""

    def meta(ask: Any) -> list[ModelChunk]:
        if ask.probe:
            found = {name: p for name, p in (("roman", 0.2), ("morse", 0.1)) if name in ask.allowed}
            return [ModelChunk(num_prompt_tokens=3, finish=Finish.STOP, distribution=found)]
        return [ModelChunk("I see.", 2), ModelChunk(finish=Finish.STOP)]

    experts = {
        name: ModelEntry(app=name, modalities=SEES if name in seeing else ("text",))
        for name in ("roman", "morse")
    }
    table = RouteTable(
        table_version=7,
        name="generalist",
        meta=ModelEntry(app="meta", modalities=SEES if "meta" in seeing else ("text",)),
        experts=experts,
        **changes,
    )
    fakes = {**models(roman=writes("IX"), morse=writes("-")), "meta": FakeModel(meta)}
    return FakeGateway(fakes, table=table, max_body_bytes=1_000_000)


async def post(gateway: FakeGateway, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": LOOK}], **fields}
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        return await client.post(path, json=body)


def prompts(gateway: FakeGateway, name: str) -> list[Any]:
    fakes: Any = gateway.models
    return [ask.prompt for ask in fakes[name].asks]


async def test_an_expert_that_sees_gets_the_picture_where_it_stands():
    gateway = cluster("morse")
    response = await post(gateway, routing={"trace": True})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "-"
    [asked] = prompts(gateway, "morse")
    [before, shown, after] = asked.messages[0].parts()
    assert (before, shown.url, shown.detail, after) == ("What is", URL, "low", "?")
    [asked] = prompts(gateway, "meta")
    assert (asked.messages[0].content, asked.messages[0].media) == ("What is\n[image]\n?", ())


async def test_a_meta_that_sees_answers():
    gateway = cluster("meta")
    response = await post(gateway)
    assert response.json()["choices"][0]["message"]["content"] == "I see."
    [asked] = prompts(gateway, "meta")
    assert [each.url for each in asked.media] == [URL]


REFUSED: list[tuple[tuple[str, ...], Mapping[str, Any], str]] = [
    ((), {}, "no model that may answer takes pictures; no model here does"),
    (("morse",), {"routing": {"exclude": ["morse"]}}, "models that do: generalist/morse"),
    (("morse",), {"routing": {"experts": ["roman"]}}, "no model that may answer takes pictures"),
    (("morse",), {"routing": {"force": "roman"}}, "'generalist/roman' does not take pictures"),
    (("morse", "meta"), {"model": "generalist/roman"}, "models that do: generalist/meta, generalist/morse"),
    (("morse",), {"model": "generalist/meta"}, "'generalist/meta' does not take pictures"),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
@pytest.mark.parametrize(("seeing", "fields", "words"), REFUSED)
async def test_if_no_model_that_may_answer_sees_those_that_do_are_named(
    seeing: tuple[str, ...], fields: Mapping[str, Any], words: str, path: str
):
    gateway = cluster(*seeing)
    response = await post(gateway, path, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("messages", "unsupported_modality")
    assert words in error["message"]
    assert not any(prompts(gateway, name) for name in ("meta", "roman", "morse"))


async def test_a_bad_picture_is_refused_before_a_model_is_asked():
    gateway = cluster("meta", "morse")
    look = {"type": "image_url", "image_url": {"url": data_uri(picture("JPEG"), "image/png")}}
    response = await post(gateway, messages=[{"role": "user", "content": [look]}], n=2, stream=True)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"] == "messages: image 1: it says image/png, but it is image/jpeg"
    assert (error["param"], error["code"]) == ("messages", "invalid_media")
    assert prompts(gateway, "meta") == []


async def test_the_list_of_models_says_what_each_reads():
    transport = httpx.ASGITransport(build_app(cluster("morse")))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        listed = (await client.get("/v1/models")).json()["data"]
    assert {each["id"]: each["modalities"] for each in listed} == {
        "generalist": ["text", "image"],
        "generalist/meta": ["text"],
        "generalist/roman": ["text"],
        "generalist/morse": ["text", "image"],
    }


async def test_a_file_that_would_have_to_be_stored_is_refused_by_name():
    part = {"type": "file", "file": {"file_id": "file-1"}}
    error = (await post(cluster("meta"), messages=[{"role": "user", "content": [part]}])).json()["error"]
    assert (error["param"], error["code"]) == ("messages.0.content.0.file", "unsupported_parameter")


async def test_all_choices_of_a_request_share_the_picture():
    gateway = cluster("meta")
    response = await post(gateway, n=3)
    assert len(response.json()["choices"]) == 3
    first, *others = prompts(gateway, "meta")
    assert len(others) == 2
    assert all(other is first for other in others)


async def test_route_says_which_expert_would_see_the_picture():
    response = await post(cluster("morse"), "/v1/route")
    body = response.json()
    assert (body["decision"], [each["name"] for each in body["experts"]]) == ("morse", ["morse"])
    assert body["left_out"] == [{"name": "roman", "reason": "modality"}]


async def test_the_result_of_a_tool_call_goes_to_its_author_only_if_it_sees():
    call = {"id": "call_roman_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": LOOK},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_roman_1", "content": "9"},
    ]
    for seeing, author in (("roman", "IX"), ("morse", "-")):
        response = await post(cluster(seeing), messages=turns)
        assert response.json()["choices"][0]["message"]["content"] == author


CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IMAGE = {"type": "image", "source": {"type": "url", "url": URL}}
RESULTS: list[tuple[str, str, list[Any]]] = [
    (
        "/v1/chat/completions",
        "messages",
        [
            {"role": "assistant", "tool_calls": [CALLED]},
            {"role": "tool", "tool_call_id": "c", "content": LOOK},
        ],
    ),
    (
        "/v1/responses",
        "input",
        [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [
                    {"type": "input_text", "text": "What is"},
                    {"type": "input_image", "image_url": URL, "detail": "low"},
                    {"type": "input_text", "text": "?"},
                ],
            },
        ],
    ),
    (
        "/v1/messages",
        "messages",
        [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": [LOOK[0], IMAGE, LOOK[2]]},
                ],
            },
        ],
    ),
]


@pytest.mark.parametrize(("path", "field", "turns"), RESULTS)
async def test_a_picture_in_the_result_of_a_tool_follows_the_result(path: str, field: str, turns: list[Any]):
    gateway = cluster("morse")
    limit = {"max_tokens": 9} if path == "/v1/messages" else {} if field == "messages" else {"messages": None}
    fields: dict[str, Any] = {field: [{"role": "user", "content": "Look."}, *turns], **limit}
    response = await post(gateway, path, **fields)
    assert response.status_code == 200, response.text
    [asked] = prompts(gateway, "morse")
    *_, result, shown = asked.messages
    assert (result.role, result.content, result.media) == ("tool", "What is\n[image]\n?", ())
    assert [shown.role, *(each if isinstance(each, str) else each.url for each in shown.parts())] == [
        "user",
        INTRODUCTION,
        URL,
    ]
    [read] = prompts(gateway, "meta")
    assert not any(message.media for message in read.messages)


async def test_a_picture_of_a_result_goes_before_what_the_user_says_after_it():
    turns = [{"role": "user", "content": "Look."}, *RESULTS[0][2], {"role": "user", "content": "And?"}]
    gateway = cluster("meta")
    assert (await post(gateway, messages=turns)).status_code == 200
    [asked] = prompts(gateway, "meta")
    assert [message.role for message in asked.messages] == ["user", "assistant", "tool", "user"]
    assert [each for each in asked.messages[-1].parts() if isinstance(each, str)] == [INTRODUCTION, "And?"]


async def test_the_result_of_a_tool_has_no_recordings():
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    turns = [RESULTS[0][2][0], {"role": "tool", "tool_call_id": "c", "content": [sound]}]
    response = await post(cluster("meta"), messages=[{"role": "user", "content": "Listen."}, *turns])
    assert response.status_code == 400
    assert "the result of a tool pictures" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "field", "part"),
    [
        ("/v1/messages", "messages", {"type": "image", "source": {"type": "url", "url": URL}}),
        ("/v1/responses", "input", {"type": "input_image", "image_url": URL}),
    ],
)
async def test_other_dialects_have_pictures_too(path: str, field: str, part: Mapping[str, Any]):
    gateway = cluster("morse")
    limit = {"max_tokens": 9} if field == "messages" else {"messages": None}
    fields: dict[str, Any] = {field: [{"role": "user", "content": [part]}], **limit}
    response = await post(gateway, path, **fields)
    assert response.status_code == 200, response.text
    [asked] = prompts(gateway, "morse")
    assert [each.url for each in asked.media] == [URL]
    assert (await post(cluster(), path, **fields)).status_code == 400
