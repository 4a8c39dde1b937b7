"""`etr decisions`: a summary of decision logs, and feedback as a query set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from experts.learn.formats import read_queries
from router.decisions.prompt_digest import messages_digest

ADDRESS = "decisions-node-0.jsonl"


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def decision(number: int, winner: str | None, **changes: Any) -> dict[str, Any]:
    has_won = winner is not None
    return {
        "kind": "decision",
        "time": f"2026-11-30T16:00:{number:02}.000Z",
        "id": f"chatcmpl-{number}",
        "choice": 0,
        "prompt": messages_digest(asked(f"question {number}")),
        "allowed": ["chem", "law"],
        "winner": winner,
        "probability": 0.8 if has_won else None,
        "margin": {"word": 2.0 if has_won else None, "expert": None},
        "redecided": None,
        "shadows": [],
        "scored_shadows": ["music"],
        **changes,
    }


def feedback(number: int, right_expert: str | None, second: int = 30) -> dict[str, Any]:
    time = f"2026-11-30T16:00:{second:02}.000Z"
    return {"kind": "feedback", "time": time, "id": f"chatcmpl-{number}", "right_expert": right_expert}


def write(path: Path, *lines: dict[str, Any], end: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The files of two routers; one of them is cut."""
    win = {"expert": "music", "probability": 0.6, "over": "meta", "position": 2}
    write(
        tmp_path / "decisions-node-0.jsonl.1",
        decision(1, "chem"),
        decision(2, "chem", redecided="model_died"),
        decision(2, "law"),
        decision(3, None, shadows=[win]),
    )
    write(
        tmp_path / "decisions-node-1.jsonl",
        decision(4, "chem"),
        decision(5, None, allowed=[]),
        feedback(4, "chem", 20),
        feedback(4, None),
        feedback(3, "law"),
        feedback(1, "chem"),
        feedback(9, "chem"),
        end='{"kind": "deci',
    )
    return tmp_path


def etr(*args: str | Path) -> str:
    result = CliRunner().invoke(app, ["decisions", *map(str, args)], env={"COLUMNS": "160"})
    assert result.exit_code in (0, 1), result.output
    return result.output


def cells(output: str, name: str) -> list[str]:
    (row,) = (line for line in output.splitlines() if line.lstrip("│ ").startswith(name))
    return [cell.strip() for cell in row.strip("│ ").split("│")]


def test_the_summary_has_a_row_for_each_expert_and_shadow(log):
    output = etr("summary", log)
    assert "5 decisions" in output
    assert "1 lines could not be read" in output
    assert cells(output, "chem") == ["chem", "3", "0.600", "0.800", "2.000", "-", "1", "1", "1", "0"]
    assert cells(output, "law") == ["law", "1", "0.200", "0.800", "2.000", "-", "0", "0", "0", "1"]
    assert cells(output, "meta") == ["meta", "1", "0.200", "-", "-", "-", "0", "0", "1", "1"]
    assert cells(output, "music") == ["music", "6", "1", "0.167", "0.600", "meta 1"]


def test_feedback_becomes_a_query_set_where_the_prompts_are_known(log, tmp_path):
    write(tmp_path / "prompts.jsonl", *({"messages": asked(f"question {n}")} for n in (3, 4, 7)))
    output = etr("export", log, "--prompts", tmp_path / "prompts.jsonl", "-o", tmp_path / "queries.jsonl")
    assert "2 queries are in" in output
    assert "1 answers with feedback have no prompt" in output
    assert "1 answers with feedback are in none of the files" in output
    found = {query.question: query.expert for query in read_queries(tmp_path / "queries.jsonl")}
    assert found == {"question 4": None, "question 3": "law"}


def test_a_log_with_text_needs_no_prompts(tmp_path):
    write(tmp_path / ADDRESS, decision(1, "chem", messages=asked("question 1")), feedback(1, "law"))
    etr("export", tmp_path / ADDRESS, "-o", tmp_path / "queries.jsonl")
    (query,) = read_queries(tmp_path / "queries.jsonl")
    assert (query.question, query.expert, query.labelled) == ("question 1", "law", True)


def test_what_cannot_be_read_or_exported_is_an_error_in_one_line(log, tmp_path):
    assert "no such" in etr("summary", tmp_path / "no.jsonl").lower()
    (tmp_path / "empty").mkdir()
    assert "holds no decision log" in etr("summary", tmp_path / "empty")
    assert "no feedback with a prompt: 3 without text, 1 without a decision" in etr(
        "export", log, "-o", tmp_path / "queries.jsonl"
    )
    assert not (tmp_path / "queries.jsonl").exists()
