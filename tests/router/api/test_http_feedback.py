"""POST /v1/feedback: a client says which expert should have answered."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from router.decision_log_rules import DecisionLogRules
from router.dialects.app import build_app
from tests.fakes.metrics import ListedLog
from tests.fakes.models import FakeGateway, hands_over, models, writes


@pytest.fixture
def gateway() -> FakeGateway:
    fakes = models(meta=hands_over("roman"), roman=writes("XLIV"), morse=writes("..."))
    gateway = FakeGateway(fakes, decision_log=ListedLog())
    gateway.table = gateway.table.model_copy(
        update={"decision_log": DecisionLogRules(folder="/d"), "shadows": ("greek",)}
    )
    return gateway


@pytest.fixture
def client(gateway) -> TestClient:
    return TestClient(build_app(gateway))


def ask(client: TestClient, **fields: object) -> str:
    body = {"messages": [{"role": "user", "content": "44?"}], **fields}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    if fields.get("stream"):
        return json.loads(response.text.splitlines()[0].removeprefix("data: "))["id"]
    return response.json()["id"]


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"stream": True}])
def test_feedback_on_an_answer_is_judged_and_logged(gateway, client, fields):
    answer_id = ask(client, **fields)
    response = client.post("/v1/feedback", json={"id": answer_id, "right_expert": None})
    assert response.json() == {
        "object": "feedback",
        "id": answer_id,
        "verdict": "false_trigger",
        "logged": True,
    }
    *decisions, feedback = gateway.decision_log.lines
    assert [(line["id"], line["choice"]) for line in decisions] == [
        (answer_id, choice) for choice in range(fields.get("n", 1))
    ]
    assert (feedback["kind"], feedback["id"], feedback["target"]) == ("feedback", answer_id, "roman")


@pytest.mark.parametrize("right_expert", ["roman", "morse", "greek"])
def test_experts_and_shadows_can_be_named(client, right_expert):
    response = client.post("/v1/feedback", json={"id": ask(client), "right_expert": right_expert})
    assert response.json()["verdict"] == ("right" if right_expert == "roman" else "wrong_expert")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"id": "chatcmpl-1", "right_expert": None}, 404, "unknown_answer", "id"),
        ({"id": "chatcmpl-1", "right_expert": "piano"}, 400, None, "right_expert"),
        ({"id": "chatcmpl-1"}, 400, None, "right_expert"),
        ({"id": 1, "right_expert": None}, 400, None, "id"),
        ({"id": "chatcmpl-1", "right_expert": None, "why": "x"}, 400, None, "why"),
        ([], 400, None, None),
    ],
)
def test_feedback_that_cannot_be_taken_is_refused(client, body, status, code, param):
    response = client.post("/v1/feedback", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
