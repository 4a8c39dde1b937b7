"""A checkpoint's own Python files run only if cluster.yaml allows it for that model."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import transformers.dynamic_module_utils

from cluster.config.cluster_config import load_config
from cluster.learning.checkpoints import checkpoints
from experts.checkpoint import Checkpoint, load_checkpoint
from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.hf.loader import load
from experts.engine.request import EngineRequest
from experts.errors import ModelLoadError
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

with Path({canary!r}).open("a") as file:
    file.write("ran ")

class CanaryConfig(LlamaConfig):
    model_type = "etr_tiny"

class CanaryModel(LlamaForCausalLM):
    config_class = CanaryConfig
"""


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the checkpoint's code creates when it runs. Its copies stay in this folder."""
    modules = tmp_path / "modules"
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "canary"


@pytest.fixture
def folder(tmp_path: Path, canary: Path) -> Path:
    """A model of a type that transformers does not know, with its own code."""
    folder = tmp_path / "own"
    save_tiny_llama(folder, byte_level())
    (folder / "canary.py").write_text(CODE.format(canary=str(canary)))
    change(folder / "config.json", model_type="etr_tiny", architectures=["CanaryModel"])
    name_code(folder, "canary")
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def name_code(folder: Path, module: str) -> None:
    classes = {"AutoConfig": f"{module}.CanaryConfig", "AutoModelForCausalLM": f"{module}.CanaryModel"}
    change(folder / "config.json", auto_map=classes)


LOADERS: list[Callable[[str], object]] = [
    lambda source: load_checkpoint(source, revision=None, dtype="float32", device_map="cpu"),
    lambda source: load(source, TransformersConfig()),
    lambda source: Checkpoint(source).load(),
    lambda source: Checkpoint(source).max_tokens(),
]


@pytest.mark.parametrize("loader", LOADERS, ids=["load_checkpoint", "engine", "checkpoint", "max_tokens"])
def test_a_model_that_needs_its_own_code_is_refused_and_the_code_not_run(
    folder: Path, canary: Path, loader: Callable[[str], object]
):
    with pytest.raises(ModelLoadError) as caught:
        loader(str(folder))
    assert str(caught.value) == (
        f"{folder}: holds code of its own that would have to run; use a checkpoint without code, or, if you "
        "trust its authors, model: {trust_remote_code: true}"
    )
    assert not canary.exists()


def test_a_configuration_that_contradicts_itself_is_reported_in_one_line(folder: Path):
    change(folder / "config.json", model_type="llama", hidden_size=31)
    with pytest.raises(ModelLoadError, match="cannot be loaded") as caught:
        Checkpoint(str(folder)).max_tokens()
    assert "\n" not in str(caught.value)


def test_code_that_is_not_needed_is_ignored(folder: Path, canary: Path):
    change(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["canary.CanaryTokenizer", None]})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text((folder / "canary.py").read_text())
    model, _ = Checkpoint(str(folder)).load()
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not canary.exists()


def test_a_tokenizer_that_needs_its_own_code_is_refused_and_the_code_not_run(folder: Path, canary: Path):
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="CanaryTokenizer",
        auto_map={"AutoTokenizer": ["canary.CanaryTokenizer", None]},
    )
    with pytest.raises(ModelLoadError, match=r"code of its own.*trust_remote_code: true"):
        Checkpoint(str(folder)).load_renderer()
    assert not canary.exists()


@pytest.mark.parametrize("loader", ["engine", "checkpoint"])
def test_trusted_code_runs(folder: Path, canary: Path, loader: str):
    if loader == "engine":
        model = load(str(folder), TransformersConfig(device_map="cpu"), trust_remote_code=True).model
    else:
        model, _ = Checkpoint(str(folder), trust_remote_code=True).load()
    assert type(model).__name__ == "CanaryModel"
    assert canary.exists()


def test_code_of_another_repository_is_not_downloaded_even_if_trusted(
    folder: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
):
    name_code(folder, "other/repository--canary")
    asked: list[Any] = []

    def refuse(*address: Any, **options: Any) -> None:
        asked.append(address)
        raise OSError("no network here")

    # huggingface_hub may fetch its list of user agents for any hub id; this test is not about that.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        Checkpoint(str(folder), trust_remote_code=True).load()
    assert asked == []
    assert not canary.exists()


def test_learning_trusts_the_models_that_serving_trusts(folder: Path, tmp_path: Path):
    models = {"meta": {"path": str(folder), "trust_remote_code": True}, "roman": {"path": str(folder)}}
    data = {"meta": {"model": models["meta"]}, "experts": {"roman": {"model": models["roman"], "token": "x"}}}
    (tmp_path / "cluster.yaml").write_text(json.dumps(data))
    found = checkpoints(load_config(tmp_path / "cluster.yaml", tokens_required=False))
    assert {name: checkpoint.trust_remote_code for name, checkpoint in found.items()} == {
        "meta": True,
        "roman": False,
    }


async def test_an_engine_decodes_with_trusted_code(folder: Path):
    config = TransformersConfig(device_map="cpu", dtype="float32", max_streams=2, max_model_len=64)
    engine = TransformersEngine(str(folder), config, trust_remote_code=True)
    try:
        call = EngineRequest("request", text="twelve", max_tokens=4)
        chunks = [chunk async for chunk in engine.generate(call)]
    finally:
        await engine.close()
    assert chunks[-1].finish is not None
