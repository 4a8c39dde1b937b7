"""`etr queries synthesize`: a query set from a model itself, and what the command prints about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli.main import app as etr
from experts.learn.formats import read_queries
from tests.tiny.asking_models import SUBJECT, write_asking_cluster


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_asking_cluster(tmp_path_factory.mktemp("asking"), tmp_path_factory)


def synthesize(config: Path, name: str, output: Path, *options: object) -> Result:
    arguments = ["queries", "synthesize", name, "--config", config, "-o", output, *options]
    return CliRunner().invoke(etr, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_the_command_says_what_it_kept_and_shows_five_questions(config: Path, tmp_path: Path):
    result = synthesize(config, "meta", tmp_path / "set.jsonl", "--num", 7)
    assert result.exit_code == 0, result.output
    written = [query.messages[0]["content"] for query in read_queries(tmp_path / "set.jsonl")]
    first, *shown, last = result.stdout.splitlines()
    assert first.startswith("kept 7 of ")
    assert shown == [f"  {' '.join(question.split())}" for question in written[:5]]
    assert f"the questions are in {tmp_path / 'set.jsonl'}; read and correct them" in last
    assert "questions: 7 of 7" in result.stderr
    assert "warning" not in result.stderr


def test_a_seed_gives_the_same_file_and_another_seed_another(config: Path, tmp_path: Path):
    files = [tmp_path / name for name in ("first", "same", "other")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        assert synthesize(config, "meta", file, "--num", 4, "--seed", seed).exit_code == 0
    first, same, other = (file.read_bytes() for file in files)
    assert first == same != other


def test_too_few_questions_are_a_warning(config: Path, tmp_path: Path):
    # So cold that it repeats itself.
    result = synthesize(config, "meta", tmp_path / "set.jsonl", "--num", 7, "--temperature", 0.01)
    assert result.exit_code == 0, result.output
    num = len(read_queries(tmp_path / "set.jsonl"))
    assert 0 < num < 7
    assert f"warning: only {num} of 7 questions; 140 texts had no more" in result.stderr


def test_an_existing_file_is_kept_without_force(config: Path, tmp_path: Path):
    output = tmp_path / "set.jsonl"
    output.write_text("corrected by hand")
    result = synthesize(config, "meta", output, "--num", 1)
    assert result.exit_code == 1
    assert f"error: {output}: exists; name another file" in result.stderr
    assert output.read_text() == "corrected by hand"
    assert synthesize(config, "meta", output, "--num", 1, "--force").exit_code == 0
    assert len(read_queries(output)) == 1


def test_a_subject_labels_the_metas_questions_with_the_expert(config: Path, tmp_path: Path):
    result = synthesize(config, "distant", tmp_path / "set.jsonl", "--about", SUBJECT, "--num", 1)
    assert result.exit_code == 0, result.output
    assert [query.expert for query in read_queries(tmp_path / "set.jsonl")] == ["distant"]


def test_an_unknown_expert_is_refused_with_the_known_ones(config: Path, tmp_path: Path):
    result = synthesize(config, "chem", tmp_path / "set.jsonl")
    assert result.exit_code == 1
    assert "no expert 'chem'; use one of adapted, chemistry, meta" in result.stderr


def test_the_commands_file_imports_no_torch():
    check = "import sys, cluster.cli.queries; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
