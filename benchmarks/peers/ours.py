"""Our own cluster: a meta that always hands over at once, and the expert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml

from benchmarks.peers.model import ENGINE_ENV, Model
from cluster.apply import apply
from cluster.config import load_config
from cluster.local import start_head, stop_head
from cluster.ports import free_ports
from cluster.target import connect_to, num_logical_cpus
from experts.checkpoint import Checkpoint
from experts.token import ExpertToken

NAME = "ours"
EXPERT = "expert"
ALWAYS = 1e4  # a bias that beats every word
PATIENCE_S = 60.0  # the others refuse nobody


@contextmanager
def ours(model: Model, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yields its address."""
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
        "engine": {
            "kind": "vllm",
            "dtype": "float32",
            "max_model_len": model.max_model_len,
            "max_streams": model.max_streams,
            "cache_bytes": model.cache_bytes,
            "enforce_eager": True,
        },
    }
    text = {
        "name": NAME,
        "meta": loaded,
        "experts": {EXPERT: {**loaded, "token": str(folder / "expert.safetensors")}},
        "routing": {"deadlines": {"queue_s": PATIENCE_S}},
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path
