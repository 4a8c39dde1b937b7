"""A shadow expert, the decision log and feedback on a real cluster, applied in place."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from cluster.decisions.log_reader import DecisionRecords, read_decisions
from cluster.decisions.summary import summarize
from cluster.polling import until
from experts.learn import read_queries

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NUM_QUESTIONS = 24


def test_a_shadow_of_an_expert_with_its_own_token_wins_where_it_does(served, watched):
    questions = read_queries(served.world / "data" / "questions.jsonl")[:NUM_QUESTIONS]
    with httpx.Client(base_url=watched.url, timeout=120) as client:
        ids = [_ask(client, query.question) for query in questions]
        said = (
            client.post("/v1/feedback", json={"id": ids[0], "right_expert": None}).raise_for_status().json()
        )
    assert until(lambda: _is_complete(watched.log), 30.0)
    assert not watched.restarted
    assert said["logged"]
    records = _records(watched.log)
    decisions = {line["id"]: line for line in records.decisions}
    assert decisions.keys() == {*ids}
    for line in decisions.values():
        wins = [(win["expert"], win["over"]) for win in line["shadows"]]
        assert wins == ([("roman-v2", "roman")] if line["winner"] == "roman" else [])
        if wins:
            assert line["shadows"][0]["probability"] == pytest.approx(line["probability"], rel=1e-4)
    found = summarize(records)
    assert 0 < found.targets["roman"].num_decisions < NUM_QUESTIONS
    assert found.shadows["roman-v2"].num_answers == NUM_QUESTIONS
    assert found.shadows["roman-v2"].over == {"roman": found.targets["roman"].num_decisions}


def _ask(client: httpx.Client, question: str) -> str:
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 16}
    return str(client.post("/v1/chat/completions", json=body).raise_for_status().json()["id"])


def _is_complete(log: Path) -> bool:
    found = _records(log) if log.is_dir() else DecisionRecords([], {})
    return len(found.decisions) == NUM_QUESTIONS and bool(found.feedback)


def _records(log: Path) -> DecisionRecords:
    return read_decisions([log])
