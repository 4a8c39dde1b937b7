"""Tokens of a prompt and the text of tokens, for a model that is addressed by its name."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.api.tasks.fields import HONOURED, NO_EFFECT
from router.api.tasks.requests import DetokenizeRequest, TokenizeRequest
from router.dialects.app import build_app
from router.errors import InvalidRequest, ModelDied
from router.prompt import ChatOptions, Message, Prompt
from router.tasks import Detokenize, Task, Tokenize
from tests.fakes.models import FakeGateway, FakeModel, Item, models, performs, writes
from tests.router.api.test_http_keys import BOB, SOME, bearer, change

HELLO = [{"role": "user", "content": "Hello"}]
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway(models(meta=writes("x"), roman=writes("x"), morse=writes("x")))


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


def asked(gateway: FakeGateway, name: str) -> list[tuple[Prompt, Task | None]]:
    found = gateway.models[name]
    assert isinstance(found, FakeModel)
    return [(ask.prompt, ask.task) for ask in found.asks]


@pytest.mark.parametrize(
    ("model", "writer"),
    [
        (None, "meta"),
        ("generalist", "meta"),
        ("generalist/meta", "meta"),
        ("generalist/roman", "roman"),
        ("nine", "roman"),
    ],
)
async def test_a_model_is_asked_by_its_name_and_nothing_is_routed(
    client: httpx.AsyncClient, gateway: FakeGateway, model: str | None, writer: str
):
    change(gateway, aliases={"nine": "generalist/roman"})
    response = await client.post(TOKENIZE, json={"model": model, "prompt": "Hello"})
    assert response.json() == {"count": 2, "max_model_len": 512, "tokens": [5, 6], "token_strs": None}
    response = await client.post(DETOKENIZE, json={"model": model, "tokens": [5, 6]})
    assert response.json() == {"prompt": "text of (5, 6)"}
    expected = [(Prompt(text="Hello"), Tokenize()), (Prompt(ids=(5, 6)), Detokenize())]
    assert asked(gateway, writer) == expected


@pytest.mark.parametrize(
    ("fields", "prompt", "task"),
    [
        ({"prompt": "", "add_special_tokens": False}, Prompt(text=""), Tokenize(add_special_tokens=False)),
        ({"prompt": "x", "return_token_strs": True}, Prompt(text="x"), Tokenize(with_texts=True)),
        (
            {
                "messages": HELLO,
                "add_generation_prompt": False,
                "chat_template_kwargs": {"enable_thinking": False},
            },
            Prompt(
                (Message("user", "Hello"),),
                options=ChatOptions(add_generation_prompt=False, template_kwargs={"enable_thinking": False}),
            ),
            Tokenize(),
        ),
        (
            {
                "messages": [*HELLO, {"role": "assistant", "content": "Hi"}],
                "continue_final_message": True,
                "tools": [{"type": "function", "function": {"name": "look"}}],
                "add_special_tokens": False,
            },
            Prompt(
                (Message("user", "Hello"),),
                written="Hi",
                options=ChatOptions(tools=({"type": "function", "function": {"name": "look"}},)),
            ),
            Tokenize(add_special_tokens=False),
        ),
    ],
)
async def test_the_model_gets_the_prompt_as_it_would_to_answer_it(
    client: httpx.AsyncClient, gateway: FakeGateway, fields: dict[str, Any], prompt: Prompt, task: Task
):
    assert (await client.post(TOKENIZE, json=fields)).status_code == 200
    assert asked(gateway, "meta") == [(prompt, task)]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TOKENIZE, {}, "prompt"),
        (TOKENIZE, {"prompt": "x", "messages": HELLO}, "prompt"),
        (TOKENIZE, {"messages": HELLO, "add_special_tokens": True}, "add_special_tokens"),
        (TOKENIZE, {"prompt": "x", "tools": [{"function": {"name": "look"}}]}, "tools"),
        (TOKENIZE, {"messages": HELLO, "chat_template": "x"}, "chat_template"),
        (TOKENIZE, {"messages": HELLO, "continue_final_message": True}, "continue_final_message"),
        (DETOKENIZE, {}, "tokens"),
        (DETOKENIZE, {"tokens": [-1]}, "tokens.0"),
        (DETOKENIZE, {"tokens": "x"}, "tokens"),
    ],
)
async def test_what_does_not_fit_together_is_refused_by_name(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], param: str
):
    response = await client.post(path, json=fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_an_expert_that_a_key_may_not_reach_does_not_exist(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    change(gateway, keys=(BOB,))  # who may reach roman alone
    for name, status in (("roman", 200), ("morse", 404)):
        body = {"model": f"generalist/{name}", "prompt": "x"}
        assert (await client.post(TOKENIZE, json=body, headers=bearer(SOME))).status_code == status
    assert (await client.post(TOKENIZE, json={"prompt": "x"})).status_code == 401


async def test_a_lost_replica_is_replaced_and_a_refusal_is_passed_on(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    failures: list[Item] = [ModelDied("gone", "r1"), InvalidRequest("prompt: no text", "prompt")]
    script = lambda ask: [failures.pop(0)] if failures else performs(ask)  # noqa: E731
    gateway.models = {"meta": FakeModel(writes(), tasks=script)}
    change(gateway, retries=1)
    refused = await client.post(TOKENIZE, json={"prompt": "x"})
    assert refused.json()["error"]["message"] == "prompt: no text"
    assert (await client.post(TOKENIZE, json={"prompt": "x"})).status_code == 200
    assert len(asked(gateway, "meta")) == 3


@pytest.mark.parametrize("kind", [TokenizeRequest, DetokenizeRequest])
def test_the_listed_fields_are_those_of_the_request_models(kind: type[TokenizeRequest | DetokenizeRequest]):
    listed = {field.name for field in HONOURED if kind.endpoint in field.endpoints}
    assert listed == set(kind.model_fields)


def test_every_field_of_an_installed_vllm_is_known():
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("!!! vLLM is not installed: its fields are NOT compared !!!")
    source = Path(spec.origin).parent / "entrypoints" / "serve" / "tokenize" / "protocol.py"
    classes = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
    asking = [node for node in classes if node.name.endswith("Request") and "Tokenizer" not in node.name]
    targets = [each.target for node in asking for each in node.body if isinstance(each, ast.AnnAssign)]
    fields = {node.id for node in targets if isinstance(node, ast.Name)}
    assert len(fields) > 8
    assert fields - {field.name for field in (*HONOURED, *NO_EFFECT)} == set()
