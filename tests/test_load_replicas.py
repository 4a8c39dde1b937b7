"""How a model's replicas are asked for their load, over Serve's handles."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.load import LIMIT_S, ServeReplicas
from router.errors import ModelUnavailable
from tests.fake_replicas import replica

NO_REPLICA = DeploymentUnavailableError(DeploymentID(name="Model", app_name="chem"))


@dataclass
class FakeHandle:
    """A handle of Serve's that was made for `load`; it reports its calls until it is shut down."""

    answers: dict[str, list[Any]]
    error: Exception | None = None
    reports: bool = True
    asked: list[str] = field(default_factory=list)

    def options(self, *, method_name: str) -> FakeHandle:
        assert method_name == "load"
        return self

    async def shutdown_async(self) -> None:
        self.reports = False

    def broadcast(self, method: str, *args: str) -> FakeHandle:
        assert not self.reports, "Serve's scaling would count this call"
        self.asked.append(" ".join([method, *args]))
        return self

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
        assert (timeout_s, return_exceptions) == (LIMIT_S, True)
        if self.error:
            raise self.error
        return self.answers[self.asked[-1]]


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[FakeHandle]]:
    """Those still to be given out, by application; another one does not exist."""
    left: dict[str, list[FakeHandle]] = {}
    monkeypatch.setattr("deployments.load.serve.get_app_handle", lambda app: left[app].pop(0))
    context = SimpleNamespace(app_name="router")
    monkeypatch.setattr("deployments.load.serve.get_replica_context", lambda: context)
    return left


async def test_every_replica_that_answers_is_heard(handles: dict[str, list[FakeHandle]]):
    a, b = replica("a", num_tokens=1), replica("b", num_tokens=2)
    handles["chem"] = [FakeHandle({"load": [a, ActorDiedError(), b]})]
    assert await ServeReplicas().loads("chem") == [a, b]


async def test_a_handle_is_made_once_and_let_go_with_its_application(handles: dict[str, list[FakeHandle]]):
    chem, router, again = FakeHandle({"load": []}), FakeHandle({"open_calls": []}), FakeHandle({"load": []})
    handles |= {"chem": [chem, again], "router": [router]}
    replicas = ServeReplicas()
    for _ in range(3):
        await replicas.loads("chem")
        await replicas.open_calls()
    replicas.keep(["law"])
    await replicas.loads("chem")
    await replicas.open_calls()
    assert (len(chem.asked), len(again.asked), len(router.asked)) == (3, 1, 4)


async def test_no_replica_is_no_load_but_no_application_is_an_error(handles: dict[str, list[FakeHandle]]):
    handles["chem"] = [FakeHandle({}, NO_REPLICA)]
    handles["law"] = [FakeHandle({}, TimeoutError())]
    replicas = ServeReplicas()
    assert await replicas.loads("chem") == []
    for app in ("law", "nobody"):
        with pytest.raises(ModelUnavailable, match=f"{app} does not answer 'load'"):
            await replicas.loads(app)


async def test_the_calls_of_all_routers_are_added_up(handles: dict[str, list[FakeHandle]]):
    calls: list[Any] = [{"chem": 2, "meta": 1}, {"chem": 3}, ActorDiedError()]
    handles["router"] = [FakeHandle({"open_calls": calls})]
    assert await ServeReplicas().open_calls() == {"chem": 5, "meta": 1}


async def test_all_routers_are_told_what_to_quarantine(handles: dict[str, list[FakeHandle]]):
    router = FakeHandle({"learn_quarantine 00ff": [None, ActorDiedError()]})
    handles["router"] = [router]
    await ServeReplicas().quarantine("00ff")
    assert router.asked == ["learn_quarantine 00ff"]
