"""`etr learn-stop`: from judged answers to the token that ends a chain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from cluster.cli.main import app as etr
from cluster.config.cluster_config import load_config
from cluster.config.expert_tokens import inline_tokens, load_tokens
from experts.token import ExpertToken
from router.chain_rules import CHAIN_STOP
from tests.tiny.taught_cluster import answered, taught_models, write_cluster, write_data

CHAIN = 'routing: {after_expert: chain, chain: {prompt: "{{ question }} {{ answer }}", stop_token: stop.st}}'


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_cluster(tmp_path, taught_models(tmp_path_factory))
    path.write_text(path.read_text().replace("routing: {when: anywhere}", CHAIN))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(etr, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def rows(num: int = 40) -> Iterator[dict[str, Any]]:
    """An answer in the words of the question is good enough; one in other words is not."""
    for i in range(num):
        for better, answer in ((False, "gold neon"), (True, "dot dash")):
            question = {"role": "user", "content": f"iron {i}?"}
            yield {"messages": [question, {"role": "assistant", "content": answer}], "better": better}


def write(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in items))
    return path


def test_the_token_ends_chains_at_good_answers_and_the_experts_tokens_stay(config: Path, tmp_path: Path):
    data = write_data(tmp_path / "queries.jsonl", answered())
    assert run("learn", config, "--data", data, "--negatives", "0").exit_code == 0
    before = load_tokens(load_config(config, tokens_required=False))
    result = run("learn-stop", config, "--data", write(tmp_path / "judged.jsonl", *rows()))
    assert result.exit_code == 0, result.output
    assert "held-out answers good enough: a chain ends at 8 of 8" in result.stdout
    assert "held-out answers that another answer was better than: a chain ends at 0 of 8" in result.stdout
    loaded = load_config(config)
    after = load_tokens(loaded)
    assert all(torch.equal(token.vector, after[name].vector) for name, token in before.items())
    assert CHAIN_STOP not in after
    assert ExpertToken.from_inline(inline_tokens(loaded)[CHAIN_STOP]).name == CHAIN_STOP


def test_answers_of_one_kind_alone_are_refused(config: Path, tmp_path: Path):
    result = run("learn-stop", config, "--data", write(tmp_path / "judged.jsonl", next(rows())))
    assert result.exit_code == 1
    assert 'judged.jsonl: no answer has "better": true; give answers of both kinds' in result.stderr


def test_a_config_without_a_file_for_the_token_is_refused(config: Path, tmp_path: Path):
    config.write_text(config.read_text().replace(", stop_token: stop.st", ""))
    result = run("learn-stop", config, "--data", write(tmp_path / "judged.jsonl", *rows(1)))
    assert result.exit_code == 1
    assert "routing.chain.stop_token: names no file to write the token to" in result.stderr
