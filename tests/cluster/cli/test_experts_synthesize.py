"""`etr experts add --synthesize`: an expert is added without a question that a person wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli.main import app as etr
from cluster.config.cluster_config import load_config
from experts.learn import read_queries
from tests.tiny.asking_models import ELEMENTS, SUBJECT, write_asking_cluster
from tests.tiny.taught_cluster import write_data
from tests.tiny.taught_meta import query

MORSE = [query(f"{word} {i}", "morse") for word in ("dot", "dash", "beep") for i in range(8)]
GENERAL = [query(f"nice day, {name} friend", None) for name in ("good", "old", "new", "my", "our", "kind")]
SYNTHESIZE = ("--synthesize", "--questions", 5, "--mid-answer", "ignore")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster with one expert and its token, and the model of another one."""
    folder = tmp_path_factory.mktemp("asking")
    config = write_asking_cluster(folder, tmp_path_factory)
    config.write_text(
        "meta: {model: {path: models/meta}, engine: {dtype: float32}}\n"
        "experts:\n  morse: {model: {path: models/chemistry}, token: tokens/morse.safetensors}\n"
    )
    data = write_data(folder / "morse.jsonl", [*MORSE, *GENERAL])
    result = run("learn", config, "--data", data, "--mid-answer", "ignore", "--negatives", 0)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def config(learned: Path, tmp_path: Path) -> Path:
    shutil.copytree(learned, tmp_path / "cluster")
    return tmp_path / "cluster" / "cluster.yaml"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(etr, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def add(config: Path, *options: object) -> Result:
    model = config.parent / "models" / "chemistry"
    arguments = ("--model", model, "--config", config, "--negatives", 0, "--no-apply", *options)
    return run("experts", "add", "chemistry", *arguments)


def row(result: Result, name: str) -> list[str]:
    """The expert's row of the first table: its queries, accuracy before, and after."""
    line = next(line for line in result.stdout.splitlines() if line.startswith(f"│ {name} "))
    return line.replace("│", " ").split()[1:]


def written(result: Result) -> Path:
    """The file with the questions."""
    [line] = [
        line for line in result.stdout.splitlines() if line.startswith("the questions that a model wrote")
    ]
    return Path(line.split(": ")[1])


def test_the_expert_writes_its_questions_and_the_incumbents_bring_theirs(config: Path):
    # Learned again, because the copied files of the meta have another time.
    again = run("learn", config, "--data", config.parent / "morse.jsonl", *SYNTHESIZE[3:], "--negatives", 0)
    assert again.exit_code == 0, again.output
    result = add(config, *SYNTHESIZE)
    assert result.exit_code == 0, result.output
    queries = read_queries(written(result))
    assert {query.expert for query in queries} == {"chemistry"}
    assert {query.question for query in queries} & {*ELEMENTS}
    assert row(result, "chemistry") == ["1", "0.000", "1.000"]
    assert row(result, "morse") == ["5", "1.000", "1.000"]
    assert {*load_config(config).experts} == {"chemistry", "morse"}


def test_the_questions_are_written_once_and_incumbents_without_data_are_named(config: Path):
    shutil.rmtree(config.parent / ".etr")
    first = add(config, *SYNTHESIZE, "--dry-run")
    assert first.exit_code == 0, first.output
    assert "warning: no held-out query is for expert 'morse'" in first.stderr
    kept = written(first)
    corrected = kept.read_text().splitlines()[:-1]
    kept.write_text("\n".join(corrected))
    again = add(config, *SYNTHESIZE, "--dry-run")
    assert written(again) == kept
    assert kept.read_text().splitlines() == corrected
    assert add(config, *SYNTHESIZE, "--about", SUBJECT, "--dry-run").exit_code == 0
    assert len(list(kept.parent.glob("questions-chemistry-*"))) == 2


def test_data_of_other_experts_may_be_given_beside_the_questions(config: Path):
    shutil.rmtree(config.parent / ".etr")
    result = add(config, *SYNTHESIZE, "--data", config.parent / "morse.jsonl")
    assert result.exit_code == 0, result.output
    assert row(result, "morse")[0] == "5"
    assert row(result, "chemistry") == ["1", "0.000", "1.000"]


def test_an_expert_that_cannot_ask_needs_a_subject(config: Path):
    model = config.parent / "models" / "meta"  # not likelier from itself than from itself
    options = ("--model", model, "--config", config, *SYNTHESIZE, "--no-apply")
    result = run("experts", "add", "chemistry", *options)
    assert result.exit_code == 1
    assert "error: no question for 'chemistry'" in result.stderr
    assert "describe its subject with --about" in result.stderr
    assert "chemistry" not in load_config(config).experts


def test_data_or_synthesis_is_required_and_a_subject_alone_has_no_effect(config: Path):
    assert "give --data, or --synthesize" in add(config).stderr
    assert "--about has no effect without --synthesize" in add(config, "--data", "x", "--about", "y").stderr
