"""`routing.stay_bias`: a question stays with the expert of the last turn, unless its subject changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from router.api.keys import digest_of
from router.api_key import ApiKey
from router.decoding.transcript import new_call_id
from router.dialects.app import build_app
from router.model_port import Finish, ModelChunk, ModelRequest
from tests.fakes.models import FakeGateway, FakeModel, writes

CHAT = "/v1/chat/completions"
# Logits of the experts by what is asked last; that of the best word is always 1.
LOGITS = {
    "Write a sort.": {"roman": 3.0, "morse": 0.0},
    "Commit it.": {"roman": 0.5, "morse": 0.0},
    "Is it legal?": {"roman": 0.5, "morse": 3.0},
}
SORT = {"role": "user", "content": "Write a sort."}
COMMIT = {"role": "user", "content": "Commit it."}
LEGAL = {"role": "user", "content": "Is it legal?"}


def meta(ask: ModelRequest) -> Sequence[ModelChunk]:
    logits = LOGITS[(ask.prompt.messages or ())[-1].content]
    scores = {name: logits[name] + ask.bias.get(name, 0.0) for name in ask.allowed}
    expert = max(scores, key=scores.__getitem__, default=None)
    if expert is None or scores[expert] <= 1.0:
        return [ModelChunk("meta", num_tokens=1, num_prompt_tokens=3), ModelChunk(finish=Finish.STOP)]
    return [ModelChunk(num_prompt_tokens=3, finish=Finish.EXPERT, expert=expert)]


def gateway(stay_bias: float = 2.0) -> FakeGateway:
    models = {name: FakeModel(writes(name)) for name in ("roman", "morse")}
    gateway = FakeGateway({"meta": FakeModel(meta), **models})
    gateway.table = gateway.table.model_copy(update={"stay_bias": stay_bias})
    return gateway


async def ask(to: FakeGateway, *messages: Any, headers: Any = None, **fields: Any) -> dict[str, Any]:
    """The message of the answer."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(to)), base_url="http://r") as http:
        response = await http.post(CHAT, json={"messages": messages, **fields}, headers=headers)
    assert response.status_code == 200, response.text
    return dict(response.json()["choices"][0]["message"])


def without_author(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": message["content"]}


async def test_a_follow_up_stays_with_the_expert_and_a_change_of_subject_goes_elsewhere():
    to = gateway()
    turn = await ask(to, SORT)
    assert (turn["content"], turn["author"]) == ("roman", "roman")
    for sent_back in (turn, without_author(turn)):
        assert (await ask(to, SORT, sent_back, COMMIT))["content"] == "roman"
        assert (await ask(to, SORT, sent_back, LEGAL))["content"] == "morse"


async def test_without_a_bias_nothing_stays_and_no_author_is_told():
    to = gateway(stay_bias=0.0)
    turn = await ask(to, SORT)
    assert "author" not in turn
    assert (await ask(to, SORT, {**turn, "author": "roman"}, COMMIT))["content"] == "meta"


async def test_a_request_has_a_bias_of_its_own():
    turn = {"role": "assistant", "content": "x", "author": "roman"}
    own = {"routing": {"stay_bias": 2.0}}
    assert (await ask(gateway(0.0), SORT, turn, COMMIT, **own))["content"] == "roman"
    none = {"routing": {"stay_bias": 0.0}}
    assert (await ask(gateway(2.0), SORT, turn, COMMIT, **none))["content"] == "meta"


async def test_another_router_knows_a_turn_by_what_the_first_one_told_it():
    first, second = gateway(), gateway()
    turn = without_author(await ask(first, SORT))
    assert (await ask(second, SORT, turn, COMMIT))["content"] == "meta"
    second.recorder.authors.learn(first.recorder.authors.take_new())
    assert (await ask(second, SORT, turn, COMMIT))["content"] == "roman"


async def test_a_session_header_names_the_conversation():
    to = gateway()
    await ask(to, SORT, headers={"x-session-id": "s1"})
    shortened = {"role": "assistant", "content": "shortened"}
    assert (await ask(to, SORT, shortened, COMMIT, headers={"x-session-id": "s1"}))["content"] == "roman"
    assert (await ask(to, SORT, shortened, COMMIT))["content"] == "meta"


async def test_the_last_event_of_a_stream_names_the_author():
    to = gateway()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(to)), base_url="http://r") as http:
        response = await http.post(CHAT, json={"messages": [SORT], "stream": True})
    assert '"delta":{"author":"roman"}' in response.text.split("\n\n")[-3]


@pytest.mark.parametrize("routing", [{"exclude": ["roman"]}, {"experts": ["morse"]}])
async def test_an_expert_that_the_request_excludes_gets_nothing(routing: dict[str, Any]):
    turn = {"role": "assistant", "content": "x", "author": "roman"}
    assert (await ask(gateway(90.0), SORT, turn, COMMIT, routing=routing))["content"] == "meta"


@pytest.mark.parametrize("author", ["roman", "meta", "nobody", "chain-stop", ""])
async def test_an_author_that_the_key_may_not_reach_gets_nothing(author: str):
    to = gateway(90.0)
    key = ApiKey(name="k", sha256=digest_of("secret"), experts=("morse",))
    to.table = to.table.model_copy(update={"keys": (key,)})
    turn = {"role": "assistant", "content": "x", "author": author}
    headers = {"authorization": "Bearer secret"}
    assert (await ask(to, SORT, turn, COMMIT, headers=headers))["content"] == "meta"


@pytest.mark.parametrize("caller", ["morse", "meta"])
async def test_inside_a_tool_loop_the_author_is_fixed_whatever_the_bias(caller: str):
    call = {"id": new_call_id(caller), "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "author": "roman"}
    result = {"role": "tool", "content": "Commit it.", "tool_call_id": call["id"]}
    assert (await ask(gateway(90.0), SORT, turn, result))["content"] == caller


async def test_a_bias_that_has_no_effect_is_refused():
    to = gateway()
    body = {"messages": [SORT], "model": "generalist/roman", "routing": {"stay_bias": 1.0}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(to)), base_url="http://r") as http:
        response = await http.post(CHAT, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "routing")
