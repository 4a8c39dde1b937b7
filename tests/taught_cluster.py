"""A cluster.yaml with a tiny meta, and tiny experts taught in seconds to answer their own questions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from experts.learn import Query
from experts.learn.rows import to_row
from experts.prompt import PromptRenderer
from tests.taught_meta import EXPERTS, lesson, query_set, taught_meta
from tests.tiny_tokenizers import byte_level

ANSWERS = {"chemistry": "Fe", "morse": "-.-", "roman": "XIV"}


def write_cluster(folder: Path, models: Path, names: Sequence[str] = EXPERTS) -> Path:
    """Puts the models of `taught_models` and a cluster.yaml with these experts into the folder."""
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


def taught_models(factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint for the meta and each expert; made once a session."""
    folder = factory.getbasetemp() / "taught"
    if folder.exists():
        return folder
    renderer = PromptRenderer(byte_level())
    _save(taught_meta(renderer), renderer, folder / "meta")
    for name in EXPERTS:
        _save(_taught_expert(renderer, name), renderer, folder / name)
    return folder


def answered(start: int = 0, num_each: int = 30) -> list[Query]:
    """`query_set` with the answers that the experts are taught, and small talk's as the meta's."""
    return [
        replace(one, response=ANSWERS[one.expert])
        if one.expert
        else replace(one, written="", response=one.written)
        for one in query_set(start, num_each)
    ]


def write_data(path: Path, queries: Iterable[Query], *, unlabelled: Iterable[str | None] = ()) -> Path:
    """Chat JSONL; the labels of the `unlabelled` are left out."""
    hidden = set(unlabelled)
    rows = [to_row(replace(one, labelled=one.expert not in hidden)) for one in queries]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def _taught_expert(renderer: PromptRenderer, name: str) -> PreTrainedModel:
    """Gives the expert's answer to its own questions, and has learned nothing else."""
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
    own = [replace(one, expert=None) for one in answered(200) if one.expert == name]
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
