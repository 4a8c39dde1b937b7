"""Does a server go on in an open turn? Found out from what it does, whatever it says."""

from __future__ import annotations

import asyncio

import pytest

from experts.engine.base import Resumed
from experts.errors import RemoteUnavailable, TurnNotContinued
from tests.openai_server import CHATML, INST, OpenAIServer, serving
from tests.remote_engine import ASKED, engine_at, run, text_of, waits_until


@pytest.fixture(autouse=True)
def _own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("experts.engine.remote_client.FIRST_PAUSE_S", 0.001)


CONTINUES = {"asked": True, "always": True, "ignored": False, "refused": False, "half known": False}


@pytest.mark.parametrize("template", [CHATML, INST], ids=["chatml", "inst"])
@pytest.mark.parametrize("turns", CONTINUES)
async def test_text_is_continued_exactly_where_the_server_goes_on_in_an_open_turn(turns, template):
    server = OpenAIServer(turns=turns, template=template)
    whole = server.answer(ASKED)
    written = " ".join(whole.split()[:3])
    assert whole != written
    with serving(server) as url:
        async with engine_at(url) as engine:
            if CONTINUES[turns]:
                assert written + text_of(await run(engine, written=written)) == whole
                assert server.bodies[-1]["continue_final_message"] is True
                assert server.bodies[-1]["add_generation_prompt"] is False
            else:
                with pytest.raises(TurnNotContinued, match="only begins answers"):
                    await run(engine, written=written)
                assert written not in str(server.bodies)
            assert text_of(await run(engine)) == whole  # at the start of a turn every server will do


@pytest.mark.parametrize("template", [CHATML, INST], ids=["chatml", "inst"])
@pytest.mark.parametrize("turns", CONTINUES)
async def test_a_model_that_always_says_the_same_proves_by_its_counts_alone(turns, template):
    with serving(OpenAIServer(turns=turns, template=template, only_word="g")) as url:
        async with engine_at(url) as engine:
            if CONTINUES[turns]:
                assert text_of(await run(engine, written="g", max_tokens=2)) == "gg"
            else:
                with pytest.raises(TurnNotContinued):
                    await run(engine, written="g")


@pytest.mark.parametrize(
    "habit",
    [{"counts": False}, {"is_repeatable": False}, {"turns": "ignored", "counts": "messages"}],
    ids=str,
)
async def test_what_cannot_be_proven_is_not_relied_on_unless_the_file_says_so(habit):
    server = OpenAIServer(**habit)
    with serving(server) as url:
        async with engine_at(url) as engine:
            with pytest.raises(TurnNotContinued):
                await run(engine, written="iron")
        server.bodies.clear()
        async with engine_at(url, continuation="always") as engine:
            assert text_of(await run(engine, written="iron", max_tokens=3))
    assert [body.get("continue_final_message") for body in server.bodies] == [True]


async def test_a_server_that_is_not_to_continue_is_not_asked():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url, continuation="never") as engine:
            await engine.check()
            with pytest.raises(TurnNotContinued):
                await run(engine, written="iron")
    assert server.bodies == []


async def test_it_is_found_out_once_and_at_the_start():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url) as engine:
            await engine.check()
            await waits_until(lambda: len(server.bodies) == 3)
            await asyncio.gather(*(run(engine, written="iron", max_tokens=2) for _ in range(8)))
            await engine.check()
    assert len(server.bodies) == 3 + 8


async def test_a_server_that_is_down_at_the_start_is_asked_when_it_is_back():
    server = OpenAIServer(failures=[(500, {})])
    with serving(server) as url:
        async with engine_at(url) as engine:
            with pytest.raises(RemoteUnavailable):
                await run(engine, written="iron")
            assert text_of(await run(engine, written="iron", max_tokens=2))


async def test_resumed_text_is_continued_as_text():
    server = OpenAIServer()
    whole = server.answer(ASKED)
    first, second, *_ = whole.split()
    with serving(server) as url:
        async with engine_at(url) as engine:
            resumed = Resumed(f" {second}", (7,), "another's")
            rest = text_of(await run(engine, written=first, resumed=resumed, position=2))
    assert f"{first} {second}{rest}" == whole
