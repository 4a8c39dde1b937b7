"""The fields that say how a model chooses its tokens."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.requests import ChatRequest, CompletionRequest
from router.sampling import Sampling, SamplingOptions
from tests.router.api.fields.asked import chat, options, refusal, text

ALL: dict[str, Any] = {
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -2,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": -100, "17": 1.5},
    "min_tokens": 3,
    "ignore_eos": True,
    "stop_token_ids": [7, 8],
    "bad_words": ["I a"],
    "allowed_token_ids": [5, 17],
    "prompt_logprobs": 2,
}


def test_every_field_reaches_the_model():
    expected = SamplingOptions(
        min_p=0.1,
        presence_penalty=0.5,
        frequency_penalty=-2.0,
        repetition_penalty=1.1,
        logit_bias={5: -100.0, 17: 1.5},
        min_tokens=3,
        ignore_eos=True,
        stop_token_ids=(7, 8),
        bad_words=("I a",),
        allowed_token_ids=(5, 17),
        num_prompt_logprobs=2,
    )
    assert options(chat(**ALL)) == options(text(**ALL)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"min_p": 0, "presence_penalty": 0.0, "frequency_penalty": 0, "repetition_penalty": 1},
        {"logit_bias": {}, "stop_token_ids": [], "bad_words": [], "min_tokens": 0, "ignore_eos": False},
        {"top_k": -1, "logprobs": False, "temperature": 1},
    ],
)
def test_values_that_ask_for_nothing_cost_nothing(fields: dict[str, Any]):
    assert chat(**fields).sampling(0) == text(**fields).sampling(0) == Sampling()


@pytest.mark.parametrize(
    ("request_", "num_logprobs", "num_prompt_logprobs"),
    [
        (chat(logprobs=True), 0, None),
        (chat(logprobs=True, top_logprobs=20), 20, None),
        (text(logprobs=0), 0, None),
        (text(logprobs=5), 5, None),
        (text(logprobs=1, echo=True), 1, 1),
        (text(logprobs=1, echo=True, prompt_logprobs=3), 1, 3),
        (text(prompt=[5, 6], echo=True), None, 0),
        (text(prompt=[[5], [6]], echo=True, logprobs=2), 2, 2),
    ],
)
def test_log_probabilities_are_asked_for_as_each_endpoint_has_them(
    request_: ChatRequest | CompletionRequest, num_logprobs: int | None, num_prompt_logprobs: int | None
):
    found = options(request_)
    assert (found.num_logprobs, found.num_prompt_logprobs) == (num_logprobs, num_prompt_logprobs)


def test_an_echoed_text_needs_no_log_probabilities():
    assert text(echo=True).sampling(0).options is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_p": 1.1}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"top_k": 0.01}, "top_k"),
        ({"top_k": -2}, "top_k"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five"),
        ({"logit_bias": {"٣": 1}}, "logit_bias.٣"),
        ({"logit_bias": [[5, 1]]}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"stop_token_ids": [1.5]}, "stop_token_ids.0"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [1] * 16_385}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words.0"),
        ({"bad_words": ["x"] * 129}, "bad_words"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(fields: dict[str, Any], param: str):
    for kind in (ChatRequest, CompletionRequest):
        assert refusal(kind, **fields).param == param


def test_alternatives_need_log_probabilities():
    assert refusal(ChatRequest, top_logprobs=2).param == "top_logprobs"
    assert refusal(ChatRequest, top_logprobs=21, logprobs=True).param == "top_logprobs"
    assert chat(top_logprobs=0).sampling(0) == Sampling()


@pytest.mark.parametrize("item", [-1, "x"])
def test_300_000_invalid_items_give_one_error(item: Any):
    bomb = [item] * 300_000
    for name in (
        "stop_token_ids",
        "allowed_token_ids",
        "bad_words",
        "guided_choice",
        "tools",
        "documents",
        "stop",
    ):
        assert str(refusal(ChatRequest, **{name: bomb}).param).startswith(name)
    keys = {f"k{i}": item for i in range(100_000)}
    for name in ("logit_bias", "chat_template_kwargs", "response_format"):
        assert refusal(ChatRequest, **{name: keys}).param == name
