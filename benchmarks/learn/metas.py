"""The metas of the benchmark: the toy world's, and a wider one that is trained briefly and kept."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.learn.setting import Setting
from benchmarks.toy.build import source_digest
from benchmarks.toy.models import META, ModelSpec
from benchmarks.toy.train import train
from experts.checkpoint import Checkpoint
from experts.prompt import PromptRenderer

# Three minutes of training are enough to tell topics apart.
_WIDE = ModelSpec(
    name=META,
    tokenizer_size=508,
    hidden_size=512,
    num_layers=4,
    max_steps=200,
    learning_rate=1e-3,
    question_weight=0.2,
)
_QUICK = ModelSpec(name=META, tokenizer_size=400, max_steps=50, learning_rate=3e-3, question_weight=0.2)


@dataclass(frozen=True)
class Meta:
    model: PreTrainedModel
    renderer: PromptRenderer

    @property
    def num_words(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def toy_meta(setting: Setting) -> Meta:
    """The toy world's meta. A quick run does not need a toy world."""
    if setting.quick:
        return wide_meta(setting)
    return _load(setting.toy / "models" / META)


def wide_meta(setting: Setting) -> Meta:
    """A meta with 512 hidden units (96 in a quick run), trained on the toy world's conversations if none is
    cached."""
    spec = _QUICK if setting.quick else _WIDE
    digest = sha256(f"{source_digest()} {asdict(spec)}".encode()).hexdigest()[:16]
    folder = setting.cache / f"meta-{spec.hidden_size}-{digest}"
    if not folder.exists():
        _train(spec, folder)
    return _load(folder)


def _train(spec: ModelSpec, folder: Path) -> None:
    num_threads = torch.get_num_threads()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # Renamed when finished, so that an interrupted training leaves no model behind.
        train(spec, Path(scratch) / "model", lambda step, max_steps, accuracy: None)
        (Path(scratch) / "model").rename(folder)
    torch.set_num_threads(num_threads)  # training sets it to one


def _load(folder: Path) -> Meta:
    model, renderer = Checkpoint(str(folder), dtype="float32").load()
    return Meta(model, renderer)
