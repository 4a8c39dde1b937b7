"""What Serve's status says about an application, and what happens if the controller does not answer."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview

from deployments.replicas import app_reports
from deployments.replicas.app_reports import AppReport, ServeAppReports, app_report

TRACEBACK = "Failed to start:\nTraceback …\n  File x\nModelLoadError: no such folder /m\nwhich is all\n"


def overview(message: str = "", **states: int) -> Any:
    deployment: Any = DeploymentStatusOverview("UPDATING", "UNSPECIFIED", states, message)  # type: ignore[arg-type]
    return ApplicationStatusOverview("DEPLOYING", "", 0.0, {"Model": deployment})  # type: ignore[arg-type]


def test_replicas_that_stop_are_not_wanted():
    assert app_report(overview(RUNNING=2, STARTING=1, STOPPING=3)) == AppReport(2, 3, "")


def test_the_message_is_the_line_that_names_the_exception():
    assert app_report(overview(TRACEBACK)).message == "ModelLoadError: no such folder /m"


async def test_callers_share_one_reading(monkeypatch: pytest.MonkeyPatch):
    num_calls = 0

    def status() -> Any:
        nonlocal num_calls
        num_calls += 1
        return SimpleNamespace(applications={"meta": overview(RUNNING=1)})

    monkeypatch.setattr(serve, "status", status)
    reports = ServeAppReports()
    assert await reports.by_app() == await reports.by_app() == {"meta": AppReport(1, 1, "")}
    assert num_calls == 1


async def test_a_controller_that_does_not_answer_is_asked_by_one_thread_only(monkeypatch: pytest.MonkeyPatch):
    answered, num_calls = threading.Event(), 0

    def status() -> Any:
        nonlocal num_calls
        num_calls += 1
        answered.wait()
        return SimpleNamespace(applications={"meta": overview(RUNNING=1)})

    monkeypatch.setattr(serve, "status", status)
    monkeypatch.setattr(app_reports, "TIMEOUT_S", 0.01)
    reports = ServeAppReports()
    assert [await reports.by_app() for _ in range(3)] == [{}, {}, {}]
    assert num_calls == 1
    answered.set()
    monkeypatch.setattr(app_reports, "TIMEOUT_S", 5.0)
    assert await reports.by_app() == {"meta": AppReport(1, 1, "")}
