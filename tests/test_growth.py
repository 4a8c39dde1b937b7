"""Nothing stays of a request in the router, however it ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from cluster.session import until
from router.errors import ModelUnavailable
from router.http import build_app
from router.model import Ask
from tests.fakes import FakeGateway, FakeModel, Item, Pause, hands_over, served, word, writes

CHAT = "/v1/chat/completions"
NUM_WARM = 200  # caches of all that is used here fill, by less than one object of a request
NUM_MORE = 200


class Forgotten(list[Ask]):
    """What a fake was asked is kept for assertions; here it would be the growth."""

    def append(self, ask: Ask) -> None:
        pass


def fails(ask: Ask) -> list[Item]:
    return [ModelUnavailable("gone")]


def hangs(ask: Ask) -> list[Item]:
    return [word("I"), Pause()]


def body(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "9?"}], **more}


def whole(http: httpx.Client) -> None:
    assert http.post(CHAT, json=body()).is_success


def streamed(http: httpx.Client) -> None:
    assert http.post(CHAT, json=body(stream=True)).text.endswith("data: [DONE]\n\n")


def chosen(http: httpx.Client) -> None:
    assert http.post(CHAT, json=body(n=3, stop=["never"], routing={"trace": True})).is_success


def refused(http: httpx.Client) -> None:
    assert http.post(CHAT, json={"messages": []}).status_code == 400


def lost(http: httpx.Client) -> None:
    assert http.get("/v1/nowhere").status_code == 404


def failed(http: httpx.Client) -> None:
    assert http.post(CHAT, json=body(model="generalist/morse")).status_code == 503


def left(http: httpx.Client) -> None:
    with http.stream("POST", CHAT, json=body(stream=True, model="generalist/meta")) as response:
        next(response.iter_lines())


@pytest.mark.parametrize("ask", [whole, streamed, chosen, refused, lost, failed, left])
def test_nothing_stays_of_a_request(ask: Callable[[httpx.Client], None], caplog: pytest.LogCaptureFixture):
    """One object of each request, in a dict that is never emptied, takes a router down in weeks."""
    caplog.set_level(logging.ERROR, logger="router")  # pytest keeps what is logged
    meta = hangs if ask is left else hands_over("roman")
    scripts = {"meta": meta, "roman": writes("I", "X"), "morse": fails}
    models = {name: FakeModel(script, asks=Forgotten()) for name, script in scripts.items()}
    gateway = FakeGateway(models)
    with served(build_app(gateway)) as url, httpx.Client(base_url=url) as http:
        before = _held(models, gateway, partial(_repeat, ask, http, NUM_WARM))
        after = _held(models, gateway, partial(_repeat, ask, http, NUM_MORE))
    assert after["tasks"] <= before["tasks"]
    assert after["objects"] - before["objects"] < NUM_MORE


def _repeat(ask: Callable[[httpx.Client], None], http: httpx.Client, num: int) -> None:
    for _ in range(num):
        ask(http)


def _held(models: dict[str, FakeModel], gateway: FakeGateway, do: Callable[[], None]) -> dict[str, int]:
    """Afterwards, once nothing runs any more."""
    do()
    assert until(lambda: not any(model.num_open for model in models.values()), 5.0, 0.01)
    assert until(lambda: gateway.admission.num_running == gateway.admission.num_waiting == 0, 5.0, 0.01)
    gc.collect()
    tasks = [task for task in list(asyncio.tasks._all_tasks) if not task.done()]  # type: ignore[attr-defined]  # of the server too
    return {"tasks": len(tasks), "objects": sys.getallocatedblocks()}
