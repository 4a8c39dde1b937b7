"""The router keeps nothing of a request, however it ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest

from cluster.polling import until
from router.dialects.app import build_app
from router.errors import ModelUnavailable
from router.model_port import ModelRequest
from tests.fakes.models import FakeGateway, FakeModel, Item, Pause, hands_over, served, word, writes

CHAT = "/v1/chat/completions"
NUM_WARM = 200  # requests until all caches are filled, to less than one object for each request
NUM_MORE = 200
NUM_ROUNDS = 2  # a leak shows in each; the threads of earlier tests may leave objects in one


class ForgetfulList(list[ModelRequest]):
    """Fakes keep their requests for assertions; here that would count as a leak."""

    def append(self, ask: ModelRequest) -> None:
        pass


def fails(ask: ModelRequest) -> list[Item]:
    return [ModelUnavailable("gone")]


def hangs(ask: ModelRequest) -> list[Item]:
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
def test_a_request_leaves_no_objects_and_no_tasks(
    ask: Callable[[httpx.Client], None], caplog: pytest.LogCaptureFixture
):
    """One object for each request, in a dict that is never emptied, kills a router within weeks."""
    caplog.set_level(logging.ERROR, logger="router")  # pytest keeps log records
    meta = hangs if ask is left else hands_over("roman")
    scripts = {"meta": meta, "roman": writes("I", "X"), "morse": fails}
    models = {name: FakeModel(script, asks=ForgetfulList()) for name, script in scripts.items()}
    gateway = FakeGateway(models, max_answers=NUM_WARM // 10)
    with served(build_app(gateway)) as url, httpx.Client(base_url=url) as http:
        num_tasks = _num_tasks()
        num_objects = [_num_objects_after(models, gateway, partial(_repeat, ask, http, NUM_WARM))]
        for _ in range(NUM_ROUNDS):
            do = partial(_repeat, ask, http, NUM_MORE)
            num_objects.append(_num_objects_after(models, gateway, do))
        # One task for the connection that is kept alive; the last request's own may still be ending.
        assert until(lambda: _num_tasks() <= num_tasks + NUM_MORE // 10, 5.0, 0.01)
    assert any(after - before < NUM_MORE for before, after in pairwise(num_objects))


def _repeat(ask: Callable[[httpx.Client], None], http: httpx.Client, num: int) -> None:
    for _ in range(num):
        ask(http)


def _num_objects_after(models: dict[str, FakeModel], gateway: FakeGateway, do: Callable[[], None]) -> int:
    """The objects that Python has allocated after `do`, once nothing runs any more."""
    do()
    assert until(lambda: not any(model.num_open for model in models.values()), 5.0, 0.01)
    assert until(lambda: gateway.admission.num_running == gateway.admission.num_waiting == 0, 5.0, 0.01)
    gc.collect()
    return sys.getallocatedblocks()


def _num_tasks() -> int:
    """The tasks that are not done on all event loops, the server's included."""
    tasks = list(asyncio.tasks._all_tasks)  # type: ignore[attr-defined]
    return sum(not task.done() for task in tasks)
