"""Our cluster: one expert, and a meta that always hands over at the first position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml

from benchmarks.overhead.model import ENGINE_ENV, Model
from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to, num_logical_cpus
from experts.checkpoint import Checkpoint
from experts.token import ExpertToken

NAME = "ours"
EXPERT = "expert"
ALWAYS = 1e4  # a bias that beats every word
QUEUE_S = 60.0  # the other servers refuse no request


@contextmanager
def ours(model: Model, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yields the URL."""
    config = load_config(_write_config(model, folder))
    cluster_env = {**ENGINE_ENV, **(env or {})}
    head = start_head(folder / "state", num_cpus=num_logical_cpus(config), env=cluster_env)
    try:
        with connect_to(head) as client:
            yield apply(config, client)
    finally:
        stop_head(folder / "state")


def _write_config(model: Model, folder: Path) -> Path:
    fingerprint, dim = Checkpoint(str(model.folder)).head()
    token = ExpertToken(EXPERT, torch.zeros(dim), ALWAYS, "meta", fingerprint)
    token.save(folder / "expert.safetensors")
    loaded = {
        "model": {"path": str(model.folder)},
        "engine": model.config.model_dump(exclude_defaults=True) | {"kind": "vllm"},
        "resources": {"num_gpus": model.num_gpus},
    }
    text = {
        "name": NAME,
        "meta": loaded,
        "experts": {EXPERT: {**loaded, "token": str(folder / "expert.safetensors")}},
        "routing": {"deadlines": {"queue_s": QUEUE_S}},
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path
