"""`etr eval`: from questions to a table, a report and pictures; with or without the cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app as etr
from tests.taught_cluster import answered, taught_models, write_cluster, write_data


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster whose tokens were learned from learn.jsonl beside it."""
    config = write_cluster(tmp_path, taught_models(tmp_path_factory))
    data = write_data(tmp_path / "learn.jsonl", answered())
    assert run("learn", config, "--data", data).exit_code == 0
    return config


def run(*arguments: object) -> Result:
    return CliRunner().invoke(etr, [str(one) for one in arguments], env={"COLUMNS": "200"})


def test_routes_are_judged_without_a_cluster_and_written_down(config: Path):
    folder = config.parent
    data = write_data(folder / "questions.jsonl", answered(50, 10))
    options = ("--routes-only", "--out", folder / "report")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob(".etr/states/*/*/*")}
    result = run("eval", config, "--data", data, "--train", folder / "learn.jsonl", *options)
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "report" / "evaluation.json").read_text())
    assert report["num_queries"] == 40
    written = {path.name for path in (folder / "report").iterdir()}
    assert {"evaluation.md", "confusion.png", "accuracy.png", "trigger_rate.png"} <= written
    (tokens,) = [line for line in result.stdout.splitlines() if line.startswith("│ tokens ")]
    accuracy = next(one["routes"]["accuracy"] for one in report["methods"] if one["name"] == "tokens")
    assert f"{accuracy:.3f}" in tokens
    assert "the cluster was not asked" in result.stdout
    # The states that the tokens were learned from are those that the baselines learn from.
    assert kept.items() <= {p: p.stat().st_mtime_ns for p in folder.glob(".etr/states/*/*/*")}.items()
    assert len(list(folder.glob(".etr/states/*/*"))) == 2


def test_data_without_labels_and_a_cluster_that_does_not_answer_are_told_in_a_line(config: Path):
    data = write_data(config.parent / "questions.jsonl", answered(50, 2), unlabelled=["roman"])
    unlabelled = run("eval", config, "--data", data, "--routes-only")
    assert unlabelled.exit_code == 1
    assert unlabelled.stderr.startswith(f'error: {data}: line 3: no "expert" to judge by')
    write_data(data, answered(50, 2))
    out = ("--out", config.parent / "report")
    silent = run("eval", config, "--data", data, "--url", "http://127.0.0.1:9", *out)
    assert silent.exit_code == 1
    assert "http://127.0.0.1:9 does not answer" in silent.stderr
    assert run("eval", config, "--data", data, "--url", "http://x", "--routes-only").exit_code == 2
