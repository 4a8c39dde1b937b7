"""`etr eval`: from questions to a table, a report and pictures; with or without the cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli.main import app as etr
from tests.tiny.taught_cluster import answered, taught_models, write_cluster, write_data


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster whose tokens were learned from learn.jsonl beside it."""
    config = write_cluster(tmp_path, taught_models(tmp_path_factory))
    data = write_data(tmp_path / "learn.jsonl", answered())
    assert run("learn", config, "--data", data, "--negatives", 0).exit_code == 0
    return config


def run(*arguments: object) -> Result:
    return CliRunner().invoke(etr, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_routes_are_judged_and_reported_without_a_cluster(config: Path):
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
    accuracy = next(
        method["routes"]["accuracy"] for method in report["methods"] if method["name"] == "tokens"
    )
    assert f"{accuracy:.3f}" in tokens
    assert "the cluster was not asked" in result.stdout
    assert (
        "false hand-overs: 0 of 10 short, 0 of 0 long, 0 of 0 neighbouring general queries" in result.stdout
    )
    assert report["kinds"].count("short") == 10
    assert "| tokens | 0 of 10 | 0 of 0 | 0 of 0 |" in (folder / "report" / "evaluation.md").read_text()
    # The states that the tokens were learned from are those that the baselines learn from.
    assert kept.items() <= {p: p.stat().st_mtime_ns for p in folder.glob(".etr/states/*/*/*")}.items()
    assert len(list(folder.glob(".etr/states/*/*/manifest.json"))) == 2


def test_missing_labels_and_a_silent_cluster_are_reported_in_one_line(config: Path):
    data = write_data(config.parent / "questions.jsonl", answered(50, 2), unlabelled=["roman"])
    unlabelled = run("eval", config, "--data", data, "--routes-only")
    assert unlabelled.exit_code == 1
    assert f'error: {data}: line 3: has no "expert" to judge by' in unlabelled.stderr
    write_data(data, answered(50, 2))
    out = ("--out", config.parent / "report")
    silent = run("eval", config, "--data", data, "--url", "http://127.0.0.1:9", *out)
    assert silent.exit_code == 1
    assert "http://127.0.0.1:9 does not answer" in silent.stderr
    assert run("eval", config, "--data", data, "--url", "http://x", "--routes-only").exit_code == 2


def methods_of(folder: Path) -> list[str]:
    report = json.loads((folder / "evaluation.json").read_text())
    return [method["name"] for method in report["methods"]]


def test_only_the_named_methods_run_beside_the_tokens(config: Path):
    folder = config.parent
    data = write_data(folder / "questions.jsonl", answered(50, 10))
    options = ("eval", config, "--data", data, "--routes-only", "--out", folder / "report")
    result = run(*options, "--methods", "probe, oracle", "--train", folder / "learn.jsonl")
    assert result.exit_code == 0, result.output
    assert methods_of(folder / "report") == ["tokens", "probe", "oracle"]
    assert "prompted meta" not in result.output
    assert "baselines: 1 of 1" in result.stderr
    result = run(*options, "--methods", "random")
    assert result.exit_code == 0, result.output
    assert methods_of(folder / "report") == ["tokens", "random"]
    assert "no training queries" not in result.stdout


def test_methods_that_do_not_exist_or_cannot_run_are_refused_with_the_remedy(config: Path):
    data = write_data(config.parent / "questions.jsonl", answered(50, 2))
    complaints = {
        "probes": "method 'probes' is unknown; use some of tokens, served, meta alone, best single, random, ",
        "kNN": "--methods: 'kNN' needs training queries; give them by --train",
        "served": "--methods: 'served' asks the running cluster; remove --routes-only",
    }
    for name, complaint in complaints.items():
        result = run("eval", config, "--data", data, "--routes-only", "--methods", f"oracle,{name}")
        assert result.exit_code == 1
        assert complaint in result.stderr


def test_broken_rows_are_skipped_on_demand_in_both_sets(config: Path):
    folder = config.parent
    data = write_data(folder / "questions.jsonl", answered(50, 10), unlabelled=["roman"])
    train = folder / "train.jsonl"
    train.write_text((folder / "learn.jsonl").read_text() + "{\n")
    options = ("eval", config, "--data", data, "--routes-only", "--train", train, "--methods", "clusters")
    broken = run(*options)
    assert broken.exit_code == 1
    assert broken.stderr.count('has no "expert" to judge by; add one, or null') == 10
    result = run(*options, "--skip-broken", "--out", folder / "report")
    assert result.exit_code == 0, result.output
    assert f"{data}: 10 of 40 rows are broken; skipped" in result.stderr
    assert f"{train}: 1 of 121 rows are broken; skipped" in result.stderr
    assert json.loads((folder / "report" / "evaluation.json").read_text())["num_queries"] == 30
