"""Pictures go to a server as OpenAI's content parts, at the start of an answer and in its middle."""

from __future__ import annotations

import pytest

from experts.engine.request import Resumed
from tests.fakes.openai_server import OpenAIServer, serving
from tests.support.remote_engine import engine_at, run, text_of

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
LOOK = ({"role": "user", "content": [{"type": "text", "text": "What is"}, PICTURE]},)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


async def test_an_answer_about_a_picture_continues_after_its_replica_was_lost():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url) as engine:
            whole = text_of(await run(engine, messages=LOOK, max_tokens=6))
            begun = " ".join(whole.split(" ")[:2])
            resumed = Resumed(begun, (), "")
            rest = text_of(await run(engine, messages=LOOK, resumed=resumed, position=2, max_tokens=4))
    assert whole == server.answer(LOOK, 6)
    assert begun + rest == whole
    first, *_, last = server.bodies
    assert first["messages"] == [*LOOK]
    assert last["messages"] == [*LOOK, {"role": "assistant", "content": begun}]
