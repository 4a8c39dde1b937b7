"""The table has every field that a known server documents, and the request models keep to it."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ChatCompletionInput
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParams

from router.api.fields.honoured import HONOURED
from router.api.fields.no_effect import NO_EFFECT
from router.api.fields.refused import REFUSED
from router.api.fields.table import SERVERS, Endpoint, HonouredField, NoEffectField, RefusedField
from router.api.requests import AnswerRequest, ChatRequest, CompletionRequest
from router.api.tasks import fields as tasks
from router.dialects.messages import fields as messages
from tests.router.api.fields.asked import chat, refusal, text

KINDS: list[type[ChatRequest] | type[CompletionRequest]] = [ChatRequest, CompletionRequest]


def known(endpoint: Endpoint) -> Counter[str]:
    """The fields of the three lists for one endpoint, with how often each is there."""
    honoured = [field.name for field in HONOURED if endpoint in field.endpoints]
    refused = [field.name for field in REFUSED if endpoint in field.endpoints]
    return Counter([*honoured, *refused, *(field.name for field in NO_EFFECT)])


def names(kind: type[AnswerRequest]) -> set[str]:
    return {field.alias or name for name, field in kind.model_fields.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_one_treatment(kind: type[AnswerRequest]):
    assert {name: num for name, num in known(kind.endpoint).items() if num > 1} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_the_honoured_fields_are_those_of_the_request_models(kind: type[AnswerRequest]):
    honoured = {field.name for field in HONOURED if kind.endpoint in field.endpoints}
    assert honoured == names(kind)


def test_a_field_of_one_endpoint_is_refused_by_the_other():
    """Only the prompt itself is not: a body may hold that of both endpoints."""
    one_sided = names(ChatRequest) ^ names(CompletionRequest)
    for kind in KINDS:
        assert one_sided - {"messages", "prompt"} <= known(kind.endpoint).keys()


def test_every_server_is_one_that_is_known():
    listed: list[HonouredField | RefusedField | NoEffectField] = [*HONOURED, *REFUSED, *NO_EFFECT]
    listed += [*messages.HONOURED, *messages.REFUSED, *messages.NO_EFFECT]
    listed += [*tasks.HONOURED, *tasks.REFUSED, *tasks.NO_EFFECT]
    assert {letter for field in listed for letter in field.servers} == set(SERVERS)


@pytest.mark.parametrize(
    ("endpoint", "documented"),
    [
        (Endpoint.CHAT, ChatParams.__annotations__),
        (Endpoint.TEXT, TextParams.__annotations__),
        (Endpoint.CHAT, ChatCompletionInput.__annotations__),
    ],
)
def test_every_field_of_installed_clients_is_known(endpoint: Endpoint, documented: dict[str, Any]):
    assert len(documented) > 15
    assert set(documented) - known(endpoint).keys() == set()


@pytest.mark.parametrize(
    ("endpoint", "module", "name"),
    [
        (Endpoint.CHAT, "chat_completion", "ChatCompletionRequest"),
        (Endpoint.TEXT, "completion", "CompletionRequest"),
    ],
)
def test_every_field_of_an_installed_vllm_is_known(endpoint: Endpoint, module: str, name: str):
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("!!! vLLM is not installed: its fields are NOT compared !!!")
    source = Path(spec.origin).parent / "entrypoints" / "openai" / module / "protocol.py"
    classes = {
        node.name: node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)
    }
    targets = [node.target for node in classes[name].body if isinstance(node, ast.AnnAssign)]
    fields = {node.id for node in targets if isinstance(node, ast.Name) and not node.id.startswith("_")}
    assert len(fields) > 40
    assert fields - known(endpoint).keys() == set()


def _name(value: object) -> str:
    return getattr(value, "name", "")


REFUSALS = [(field, kind) for field in REFUSED for kind in KINDS if kind.endpoint in field.endpoints]


@pytest.mark.parametrize(("field", "kind"), REFUSALS, ids=_name)
def test_a_refusal_names_the_field_and_the_remedy(field: Any, kind: type[ChatRequest]):
    values: tuple[Any, ...] = ({"some": "thing"}, 12345, "something")
    for value in values:
        refused = refusal(kind, **{field.name: value})
        assert (refused.param, refused.code) == (field.name, "unsupported_parameter")
        assert field.name in str(refused)
        assert field.remedy in str(refused)


@pytest.mark.parametrize(("field", "kind"), REFUSALS, ids=_name)
def test_a_value_that_asks_for_nothing_is_accepted(field: Any, kind: type[ChatRequest]):
    ask: Callable[..., ChatRequest | CompletionRequest] = chat if kind is ChatRequest else text
    plain = ask()
    for value in (None, *field.accepted):
        assert ask(**{field.name: value}) == plain


@pytest.mark.parametrize("field", NO_EFFECT, ids=_name)
def test_a_field_without_effect_is_accepted_with_any_value(field: Any):
    values: tuple[Any, ...] = (None, "x", 1, {"a": []})
    for value in values:
        assert chat(**{field.name: value}) == chat()
        assert text(**{field.name: value}) == text()


def test_false_is_not_0():
    """In Python, both are equal; only one of them asks for nothing."""
    assert refusal(ChatRequest, n_probs=False).param == "n_probs"
    assert refusal(ChatRequest, use_beam_search=0).param == "use_beam_search"


def test_a_field_that_no_server_documents_is_ignored():
    assert chat(some_other_field=[{}]) == chat()
