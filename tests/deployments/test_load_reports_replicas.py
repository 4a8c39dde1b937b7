"""How the load of a model's replicas is read over Serve's handles."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve._private.local_testing_mode import LocalReplicaResult
from ray.serve._private.replica_result import ReplicaResult
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentBroadcastResponse

from deployments.load_reports import REPLICA_TIMEOUT_S, LoadReports, ServeBroadcast
from deployments.model_app import MODEL_DEPLOYMENT
from router.errors import ModelUnavailable
from router.load_report import ModelLoad
from tests.fakes.models import in_virtual_time
from tests.fakes.replicas import replica

SILENT = object()
NO_REPLICA = DeploymentUnavailableError(DeploymentID(name="Model", app_name="chem"))


@dataclass
class FakeHandle:
    """A handle of Serve, created for `load`. It reports its calls to the autoscaler until it is shut down.

    It returns Serve's own response, with an answer, an exception or no answer from each replica.
    """

    answers: dict[str, list[Any]]
    error: Exception | None = None
    reports: bool = True
    asked: list[str] = field(default_factory=list)
    open: list[concurrent.futures.Future[Any]] = field(default_factory=list)

    def options(self, *, method_name: str) -> FakeHandle:
        assert method_name == "load"
        return self

    async def shutdown_async(self) -> None:
        self.reports = False

    def broadcast(self, method: str, *args: str) -> DeploymentBroadcastResponse:
        assert not self.reports, "Serve's scaling would count this call"
        self.asked.append(" ".join([method, *args]))
        return DeploymentBroadcastResponse(self._sent(self.asked[-1]), asyncio.get_running_loop())

    async def _sent(self, call: str) -> list[ReplicaResult]:
        if self.error:
            raise self.error
        return [self._result(answer) for answer in self.answers[call]]

    def _result(self, answer: Any) -> ReplicaResult:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if answer is SILENT:
            self.open.append(future)
        elif isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return LocalReplicaResult(future, request_id="r")


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[FakeHandle]]:
    """The handles that are still to be created, by application; no other application exists."""
    left: dict[str, list[FakeHandle]] = {}

    def of_model(deployment: str, app: str) -> FakeHandle:
        assert deployment == MODEL_DEPLOYMENT, "the ingress beside a model has no replicas to ask"
        return left[app].pop(0)

    def of_ingress(app: str) -> FakeHandle:
        assert app == "router", "a model is not the ingress of its application"
        return left[app].pop(0)

    monkeypatch.setattr("ray.serve.get_deployment_handle", of_model)
    monkeypatch.setattr("ray.serve.get_app_handle", of_ingress)
    context = SimpleNamespace(app_name="router")
    monkeypatch.setattr("deployments.load_reports.serve.get_replica_context", lambda: context)
    return left


async def test_the_load_of_every_replica_that_answers_is_returned(handles: dict[str, list[FakeHandle]]):
    a, b = replica("a", num_tokens=1), replica("b", num_tokens=2)
    handles["chem"] = [FakeHandle({"load": [a, ActorDiedError(), b]})]
    assert await ServeBroadcast().loads("chem") == [a, b]


def test_a_replica_that_hangs_is_left_out_and_no_longer_waited_for(handles: dict[str, list[FakeHandle]]):
    a, b = replica("a", num_tokens=1), replica("b", num_tokens=2)
    chem, router = FakeHandle({"load": []}), FakeHandle({"open_calls": []})
    handles |= {"chem": [chem], "router": [router]}
    replicas = ServeBroadcast()
    asyncio.run(connected(replicas, "chem"))  # in real time, because virtual time does not wait for threads
    chem.answers["load"], router.answers["open_calls"] = [a, SILENT, b], [{"chem": 3}, SILENT]

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        load = (await LoadReports(replicas).by_app(["chem"]))["chem"]
        assert load == ModelLoad(num_running=0, num_queued=3, num_tokens=3, replicas=(a, b))
        assert clock() == pytest.approx(REPLICA_TIMEOUT_S)
        assert [call.cancelled() for call in (*chem.open, *router.open)] == [True, True]

    in_virtual_time(main())


def test_a_model_is_unknown_if_every_replica_hangs_or_fails(handles: dict[str, list[FakeHandle]]):
    chem = FakeHandle({"load": []})
    handles |= {"chem": [chem], "router": [FakeHandle({"open_calls": []})]}
    replicas = ServeBroadcast()
    asyncio.run(connected(replicas, "chem"))
    for answers in ([SILENT, SILENT], [SILENT, ActorDiedError()], [ActorDiedError()]):
        chem.answers["load"] = answers
        assert in_virtual_time(LoadReports(replicas).by_app(["chem"])) == {"chem": None}


async def connected(replicas: ServeBroadcast, app: str) -> None:
    await replicas.loads(app)
    await replicas.open_calls()


async def test_handles_are_kept_by_one_look_at_the_applications(handles: dict[str, list[FakeHandle]]):
    """A set of all of them was made for every handle."""

    class Apps(list[str]):
        num_read = 0

        def __iter__(self) -> Iterator[str]:
            self.num_read += 1
            return super().__iter__()

    names = [f"app-{number}" for number in range(5)]
    handles |= {name: [FakeHandle({"load": []})] for name in names}
    replicas = ServeBroadcast()
    for name in names:
        await replicas.loads(name)
    apps = Apps(names)
    replicas.keep(apps)
    assert apps.num_read == 1


async def test_a_handle_is_created_once_for_each_application(
    handles: dict[str, list[FakeHandle]],
):
    chem, router, again = FakeHandle({"load": []}), FakeHandle({"open_calls": []}), FakeHandle({"load": []})
    handles |= {"chem": [chem, again], "router": [router]}
    replicas = ServeBroadcast()
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
    replicas = ServeBroadcast()
    assert await replicas.loads("chem") == []
    with pytest.raises(ModelUnavailable, match="law does not answer 'load'"):
        await replicas.loads("law")
    with pytest.raises(ModelUnavailable, match="there is no application nobody yet"):
        await replicas.loads("nobody")


async def test_the_calls_of_all_routers_are_added_up(handles: dict[str, list[FakeHandle]]):
    calls: list[Any] = [{"chem": 2, "meta": 1}, {"chem": 3}, ActorDiedError()]
    handles["router"] = [FakeHandle({"open_calls": calls})]
    assert await ServeBroadcast().open_calls() == {"chem": 5, "meta": 1}


async def test_all_routers_are_told_what_to_quarantine(handles: dict[str, list[FakeHandle]]):
    router = FakeHandle({"learn_quarantine 00ff": [None, ActorDiedError()]})
    handles["router"] = [router]
    await ServeBroadcast().quarantine("00ff")
    assert router.asked == ["learn_quarantine 00ff"]
