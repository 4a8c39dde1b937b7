"""A cluster.yaml with a tiny meta, and tiny experts trained in seconds to answer their own questions."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from benchmarks.models import save_random_model
from cluster.cli.main import app as etr
from experts.cache import make_once
from experts.learn import Query
from experts.learn.row_formats import to_row
from experts.prompt import PromptRenderer
from experts.token import ExpertToken
from tests.tiny.taught_meta import EXPERTS, lesson, query_set, taught_meta
from tests.tiny.tokenizers import byte_level

ANSWERS = {"chemistry": "Fe", "morse": "-.-", "roman": "XIV"}
WINDOW = 512  # for long answers; rotary positions allow more than the models were trained with
ENGINE = {"dtype": "float32", "max_model_len": WINDOW, "max_streams": 32, "num_threads": 1}


def write_cluster(folder: Path, models: Path, names: Sequence[str] = EXPERTS) -> Path:
    """Write the models of `taught_models` and a cluster.yaml with these experts to `folder`."""
    shutil.copytree(models, folder / "models")
    experts = "".join(
        f"  {name}:  # knows {name}\n"
        f"    model: {{path: models/{name}}}\n"
        f"    token: tokens/{name}.safetensors\n"
        for name in names
    )
    path = folder / "cluster.yaml"
    path.write_text(
        "# a cluster for tests\n"
        "meta:\n  model: {path: models/meta}\n  engine: {dtype: float32}\n"
        f"experts:\n{experts}"
        "routing: {when: anywhere}\n",
        encoding="utf-8",
    )
    return path


def write_world(folder: Path, models: Path) -> None:
    """Write a cluster.yaml with a name, learned tokens, and questions that no model was trained with.

    One more expert, `scribe`, writes until its limit, and its token never wins.
    """
    path = write_cluster(folder, models)
    for config in (folder / "models").glob("*/config.json"):
        wider = json.loads(config.read_text(encoding="utf-8")) | {"max_position_embeddings": WINDOW}
        config.write_text(json.dumps(wider), encoding="utf-8")
    (folder / "data").mkdir()
    # As many as it takes to route new questions as well as known ones.
    learn_tokens(path, folder / "data" / "learn.jsonl", answered(start=200, num_each=60))
    write_data(folder / "data" / "questions.jsonl", answered(start=300, num_each=40))
    save_random_model(folder / "models" / "scribe", hidden_size=64, num_layers=1, max_model_len=WINDOW)
    roman = ExpertToken.load(folder / "tokens" / "roman.safetensors")
    replace(roman, name="scribe", vector=-roman.vector, bias=-1000.0).save(
        folder / "tokens" / "scribe.safetensors"
    )
    text = yaml.safe_load(path.read_text(encoding="utf-8")) | {"name": "generalist"}
    text["experts"]["scribe"] = {"model": {"path": "models/scribe"}, "token": "tokens/scribe.safetensors"}
    for block in (text["meta"], *text["experts"].values()):
        block |= {"engine": ENGINE, "resources": {"num_cpus": 0.25}}
    path.write_text(yaml.safe_dump(text), encoding="utf-8")


def learn_tokens(cluster: Path, data: Path, queries: Iterable[Query]) -> None:
    """Learn the tokens of all experts of a cluster.yaml, as a user would.

    From first positions only: this meta may greet or not, and an expert takes over after a greeting too.
    From the data only: it knows nothing of users.
    """
    write_data(data, queries)
    arguments = ["learn", str(cluster), "--data", str(data), "--mid-answer", "ignore", "--negatives", "0"]
    learned = CliRunner().invoke(etr, arguments)
    assert learned.exit_code == 0, learned.output


def taught_models(factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint for the meta and each expert, created once for a test run."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "taught" / "models"
    make_once(folder, _train)
    return folder


def answered(start: int = 0, num_each: int = 30) -> list[Query]:
    """`query_set` with the experts' answers, and with the answers to small talk as the meta's."""
    return [
        replace(query, response=ANSWERS[query.expert], answer=ANSWERS[query.expert])
        if query.expert
        else replace(query, written="", response=query.written)
        for query in query_set(start, num_each)
    ]


def write_data(path: Path, queries: Iterable[Query], *, unlabelled: Iterable[str | None] = ()) -> Path:
    """Write chat JSONL, without labels for the experts in `unlabelled`."""
    hidden = set(unlabelled)
    rows = [to_row(replace(query, labelled=query.expert not in hidden)) for query in queries]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def _train(folder: Path) -> None:
    renderer = PromptRenderer(byte_level())
    _save(taught_meta(renderer), renderer, folder / "meta")
    for name in EXPERTS:
        _save(_taught_expert(renderer, name), renderer, folder / name)


def _taught_expert(renderer: PromptRenderer, name: str) -> PreTrainedModel:
    """A model that has learned the answers to its own questions, and nothing else."""
    torch.manual_seed(1)
    model: PreTrainedModel = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(renderer.tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
        )
    )
    own = [replace(query, expert=None) for query in answered(200) if query.expert == name]
    inputs, labels = lesson(renderer, own)
    adam = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(30):
        adam.zero_grad()
        loss = cross_entropy(model(inputs).logits[:, :-1].transpose(1, 2), labels[:, 1:])
        loss.backward()
        adam.step()
    return model.eval()


def _save(model: PreTrainedModel, renderer: PromptRenderer, folder: Path) -> None:
    model.save_pretrained(folder)
    renderer.tokenizer.save_pretrained(folder)
