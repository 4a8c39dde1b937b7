"""Whether a server continues an open turn is tested by what it does."""

from __future__ import annotations

import asyncio

import pytest

from experts.engine.request import Resumed
from experts.errors import RemoteUnavailable, TurnNotContinued
from tests.fakes.openai_server import CHATML, INST, OpenAIServer, serving
from tests.support.remote_engine import MESSAGES, engine_at, run, text_of, wait_until


@pytest.fixture(autouse=True)
def _fast_local_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("experts.engine.openai.client.FIRST_RETRY_DELAY_S", 0.001)


CONTINUES = {"supported": True, "always": True, "ignored": False, "refused": False, "partial": False}


@pytest.mark.parametrize("template", [CHATML, INST], ids=["chatml", "inst"])
@pytest.mark.parametrize("open_turns", CONTINUES)
async def test_text_is_continued_exactly_if_the_server_continues_open_turns(open_turns, template):
    server = OpenAIServer(open_turns=open_turns, template=template)
    whole = server.answer(MESSAGES)
    written = " ".join(whole.split()[:3])
    assert whole != written
    with serving(server) as url:
        async with engine_at(url) as engine:
            if CONTINUES[open_turns]:
                assert written + text_of(await run(engine, written=written)) == whole
                assert server.bodies[-1]["continue_final_message"] is True
                assert server.bodies[-1]["add_generation_prompt"] is False
            else:
                with pytest.raises(TurnNotContinued, match="cannot continue an answer that has text already"):
                    await run(engine, written=written)
                assert written not in str(server.bodies)
            assert text_of(await run(engine)) == whole  # any server can begin an answer


@pytest.mark.parametrize("template", [CHATML, INST], ids=["chatml", "inst"])
@pytest.mark.parametrize("open_turns", CONTINUES)
async def test_a_model_that_always_writes_the_same_word_is_judged_by_its_token_counts(open_turns, template):
    with serving(OpenAIServer(open_turns=open_turns, template=template, only_word="g")) as url:
        async with engine_at(url) as engine:
            if CONTINUES[open_turns]:
                assert text_of(await run(engine, written="g", max_tokens=2)) == "gg"
            else:
                with pytest.raises(TurnNotContinued):
                    await run(engine, written="g")


@pytest.mark.parametrize(
    "behaviour",
    [
        {"reports_usage": False},
        {"is_deterministic": False},
        {"open_turns": "ignored", "reports_usage": "messages"},
    ],
    ids=str,
)
async def test_an_unproved_server_is_not_asked_to_continue_unless_configured(behaviour):
    server = OpenAIServer(**behaviour)
    with serving(server) as url:
        async with engine_at(url) as engine:
            with pytest.raises(TurnNotContinued):
                await run(engine, written="iron")
        server.bodies.clear()
        async with engine_at(url, continuation="always") as engine:
            assert text_of(await run(engine, written="iron", max_tokens=3))
    assert [body.get("continue_final_message") for body in server.bodies] == [True]


async def test_a_server_with_continuation_never_is_not_tested():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url, continuation="never") as engine:
            await engine.check()
            with pytest.raises(TurnNotContinued):
                await run(engine, written="iron")
    assert server.bodies == []


async def test_a_server_is_tested_once_at_the_start():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url) as engine:
            await engine.check()
            await wait_until(lambda: len(server.bodies) == 3)
            await asyncio.gather(*(run(engine, written="iron", max_tokens=2) for _ in range(8)))
            await engine.check()
    assert len(server.bodies) == 3 + 8


async def test_a_server_that_is_down_at_the_start_is_tested_when_it_is_back():
    server = OpenAIServer(failures=[(500, {})])
    with serving(server) as url:
        async with engine_at(url) as engine:
            with pytest.raises(RemoteUnavailable):
                await run(engine, written="iron")
            assert text_of(await run(engine, written="iron", max_tokens=2))


async def test_resumed_text_is_continued_as_text():
    server = OpenAIServer()
    whole = server.answer(MESSAGES)
    first, second, *_ = whole.split()
    with serving(server) as url:
        async with engine_at(url) as engine:
            resumed = Resumed(f" {second}", (7,), "another tokenizer")
            rest = text_of(await run(engine, written=first, resumed=resumed, position=2))
    assert f"{first} {second}{rest}" == whole
