"""LangChain's agents, structured outputs and chat models work against this server."""

from __future__ import annotations

from typing import Literal

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from tests.clients.conftest import Server

ROMAN, MORSE, CAPITAL = "What is 9 as a roman numeral?", "SOS in Morse code?", "The capital of France is"


class Numeral(BaseModel):
    """A number and its roman numeral."""

    number: int
    numeral: str


@tool
def to_roman(number: int) -> str:
    """Write a number as a roman numeral."""
    return {8: "VIII", 9: "IX"}[number]


@tool
def to_morse(text: str) -> str:
    """Write a text in Morse code."""
    return {"VIII": "...- .. .. ..", "IX": ".. -..-"}[text]


@pytest.fixture
def chat(server: Server) -> ChatOpenAI:
    return ChatOpenAI(model="generalist", base_url=server.api, api_key=SecretStr("none"), max_retries=0)


def called(message: AIMessage) -> list[tuple[str, dict[str, object]]]:
    return [(call["name"], call["args"]) for call in message.tool_calls]


def test_an_agent_uses_two_tools(chat: ChatOpenAI):
    agent = create_agent(chat, [to_roman, to_morse])
    messages = agent.invoke({"messages": [HumanMessage("Give 9 as a roman numeral, in Morse code.")]})[
        "messages"
    ]
    assert [type(message) for message in messages[1:]] == [
        AIMessage,
        ToolMessage,
        AIMessage,
        ToolMessage,
        AIMessage,
    ]
    assert called(messages[1]) == [("to_roman", {"number": 9})]
    assert called(messages[3]) == [("to_morse", {"text": "IX"})]
    assert messages[5].content == "IX is .. -..-"
    # The results go back to the model that called, so it made both calls.
    assert all(
        message.tool_calls[0]["id"].startswith("call_roman_") for message in (messages[1], messages[3])
    )


async def test_a_streamed_agent_reads_calls_in_pieces(chat: ChatOpenAI):
    agent = create_agent(chat, [to_roman, to_morse])
    question = HumanMessage("Give 9 and 8 as roman numerals, and the first in Morse code.")
    whole: dict[str, AIMessageChunk] = {}
    async for chunk, _ in agent.astream({"messages": [question]}, stream_mode="messages"):
        if isinstance(chunk, AIMessageChunk):
            assert chunk.id is not None
            whole[chunk.id] = whole[chunk.id] + chunk if chunk.id in whole else chunk
    assert [called(message) for message in whole.values()] == [
        [("to_roman", {"number": 9}), ("to_roman", {"number": 8})],
        [("to_morse", {"text": "IX"})],
        [],
    ]
    assert [*whole.values()][-1].content == "IX is .. -..-"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_a_structured_output_is_an_object(
    chat: ChatOpenAI, method: Literal["json_schema", "function_calling", "json_mode"]
):
    assert chat.with_structured_output(Numeral, method=method).invoke(ROMAN) == Numeral(
        number=9, numeral="IX"
    )


def test_a_structured_output_streams(chat: ChatOpenAI):
    *_, last = chat.with_structured_output(Numeral, method="json_schema").stream(ROMAN)
    assert last == Numeral(number=9, numeral="IX")


def test_answers_of_several_writers_add_up(chat: ChatOpenAI):
    result = chat.generate([[HumanMessage(question)] for question in (ROMAN, MORSE, CAPITAL)])
    texts = [generations[0].text for generations in result.generations]
    assert texts == ["IX\nas the Romans wrote", "... --- ...", " Paris"]
    assert result.llm_output is not None
    usage = result.llm_output["token_usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (16, 11, 27)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_stream_tells_its_usage(server: Server):
    chat = ChatOpenAI(
        model="generalist", base_url=server.api, api_key=SecretStr("none"), stream_usage=True, logprobs=True
    )
    first, *others = chat.stream(MORSE)
    whole = sum(others, first)
    assert whole.content == "... --- ..."
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 3
    assert [each["token"] for each in whole.response_metadata["logprobs"]["content"]] == [
        "...",
        " ---",
        " ...",
    ]


def test_a_raw_prompt_is_continued(server: Server):
    llm = OpenAI(model="generalist/meta", base_url=server.api, api_key=SecretStr("none"))
    assert llm.generate([CAPITAL, "The capital of Italy is"]).generations[1][0].text == " Rome"
