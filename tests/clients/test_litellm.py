"""LiteLLM works against this server, and knows a prompt that is too long from other mistakes."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from tests.clients.conftest import Server

ROMAN = "What is 9 as a roman numeral?"
LONG = "Write this in Morse code: " + "SOS " * 30
TO_ROMAN = {"type": "function", "function": {"name": "to_roman", "parameters": {"type": "object"}}}


def ask(server: Server, question: str, model: str = "generalist", **options: Any) -> Any:
    return litellm.completion(
        model=f"openai/{model}",
        messages=[{"role": "user", "content": question}],
        api_base=server.api,
        api_key="none",
        max_retries=0,
        **options,
    )


def test_an_answer_has_text_thoughts_and_usage(server: Server):
    answer = ask(server, ROMAN, stop=["\n"])
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("IX", "9 is small")
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 4)


def test_a_stream_holds_the_same(server: Server):
    chunks = list(ask(server, ROMAN, stop=["\n"], stream=True, stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks)
    assert whole is not None
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == ("IX", "9 is small")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_calls_tools(server: Server, stream: bool):
    answer = ask(server, "Give 9 and 8 as roman numerals.", tools=[TO_ROMAN], stream=stream)
    whole = litellm.stream_chunk_builder(list(answer)) if stream else answer
    [choice] = whole.choices
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert calls == [("to_roman", '{"number": 9}'), ("to_roman", '{"number": 8}')]
    assert choice.finish_reason == "tool_calls"


def test_log_probabilities_are_read(server: Server):
    answer = ask(server, "SOS in Morse code?", logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert [(token.token, token.logprob, len(token.top_logprobs)) for token in tokens] == [
        ("...", -0.125, 2),
        (" ---", -0.125, 2),
        (" ...", -0.125, 2),
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "question"), [("generalist", "How? " * 600), ("generalist/morse", LONG)])
def test_a_prompt_that_is_too_long_is_known_as_such(server: Server, model: str, question: str, stream: bool):
    with pytest.raises(litellm.ContextWindowExceededError):
        ask(server, question, model, stream=stream)


def test_a_raw_prompt_that_is_too_long_is_known_as_such(server: Server):
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.text_completion(
            model="text-completion-openai/generalist",
            prompt="How? " * 600,
            api_base=server.api,
            api_key="none",
        )


def test_another_mistake_is_not_taken_for_it(server: Server):
    with pytest.raises(litellm.BadRequestError) as raised:
        ask(server, ROMAN, temperature=9)
    assert not isinstance(raised.value, litellm.ContextWindowExceededError)


def test_a_router_falls_back_to_a_model_with_a_larger_window(server: Server):
    deployments = {"small": "openai/generalist/morse", "large": "openai/generalist/meta"}
    router = litellm.Router(
        model_list=[
            {
                "model_name": name,
                "litellm_params": {"model": model, "api_base": server.api, "api_key": "none"},
            }
            for name, model in deployments.items()
        ],
        context_window_fallbacks=[{"small": ["large"]}],
        num_retries=0,
    )
    answer = router.completion("small", [{"role": "user", "content": LONG}])
    assert answer.choices[0].message.content == "I am fine , thank you"
