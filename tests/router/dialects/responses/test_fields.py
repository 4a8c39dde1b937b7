"""Every field that OpenAI or vLLM documents for /v1/responses has one treatment."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

from router.api.body import parse
from router.api.sse import to_json
from router.dialects.responses.fields import AS_IN_CHAT, HONOURED, NO_EFFECT, REFUSED
from router.dialects.responses.request import ResponsesRequest
from router.errors import InvalidRequest

NAMES = [*(field.name for field in (*HONOURED, *REFUSED, *NO_EFFECT)), *AS_IN_CHAT]


def ask(**fields: Any) -> ResponsesRequest:
    return parse(ResponsesRequest, to_json({"input": "9?", **fields}))


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        ask(**fields)
    return refused.value


def test_every_field_has_one_treatment():
    assert {name: num for name, num in Counter(NAMES).items() if num > 1} == {}


def test_the_honoured_fields_are_those_of_the_request_model():
    honoured = {*(field.name for field in HONOURED), *AS_IN_CHAT}
    parsed = {field.alias or name for name, field in ResponsesRequest.model_fields.items()}
    assert honoured == parsed - {field.name for field in REFUSED}


def test_every_field_of_the_installed_client_is_known():
    documented = ResponseCreateParamsStreaming.__annotations__
    assert len(documented) > 30
    assert set(documented) - set(NAMES) == set()


def test_every_field_of_an_installed_vllm_is_known():
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("!!! vLLM is not installed: its fields are NOT compared !!!")
    source = Path(spec.origin).parent / "entrypoints" / "openai" / "responses" / "protocol.py"
    classes = {
        node.name: node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)
    }
    targets = [node.target for node in classes["ResponsesRequest"].body if isinstance(node, ast.AnnAssign)]
    fields = {node.id for node in targets if isinstance(node, ast.Name) and not node.id.startswith("_")}
    assert len(fields) > 40
    assert fields - set(NAMES) == set()


@pytest.mark.parametrize("field", REFUSED, ids=lambda field: field.name)
def test_a_refusal_names_the_field_and_the_remedy(field: Any):
    values: tuple[Any, ...] = ({"some": "thing"}, 12345, "something")
    for value in values:
        refused = refusal(**{field.name: value})
        assert (refused.param, refused.code) == (field.name, "unsupported_parameter")
        assert field.remedy in refused.message


@pytest.mark.parametrize("field", REFUSED, ids=lambda field: field.name)
def test_a_value_that_asks_for_nothing_is_accepted(field: Any):
    for value in (None, *field.accepted):
        assert ask(**{field.name: value}).to_chat() == ask().to_chat()


@pytest.mark.parametrize("field", NO_EFFECT, ids=lambda field: field.name)
def test_a_field_without_effect_is_accepted_with_any_value(field: Any):
    values: tuple[Any, ...] = (None, "x", 1, {"a": []})
    for value in values:
        assert ask(**{field.name: value}) == ask()


def test_the_fields_of_a_chat_request_are_passed_on():
    fields: dict[str, Any] = {
        "model": "generalist/roman",
        "temperature": 0.5,
        "top_k": 5,
        "seed": 3,
        "stop": ["x"],
        "include_stop_str_in_output": True,
        "min_tokens": 2,
        "bad_words": ["y"],
        "logit_bias": {"7": 1.0},
        "priority": -1,
        "chat_template_kwargs": {"a": 1},
        "include_reasoning": False,
        "routing": {"exclude": ["morse"]},
        "structured_outputs": {"json": {"type": "object"}},
        "parallel_tool_calls": False,
    }
    assert fields.keys() <= set(AS_IN_CHAT)
    assert ask(**fields).to_chat().model_dump(by_alias=True, exclude_unset=True).items() >= fields.items()
