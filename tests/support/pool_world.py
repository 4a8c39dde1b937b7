"""A cluster.yaml with a pool, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster.serve.test_deploy_config import make_token, make_world
from tests.tiny.adapters import write_adapter


def make_pool_world(folder: Path, *adapters: str, max_adapters: int = 4) -> dict[str, Any]:
    """An expert `roman` with a model of its own, and a pool `base` with these experts."""
    world = make_world(folder, "roman")
    (folder / "models" / "base").mkdir()
    (folder / "models" / "base" / "config.json").write_text('{"hidden_size": 8}')
    engine = {"kind": "vllm", "max_adapters": max_adapters}
    world["pools"] = {"base": {"model": {"path": "models/base"}, "engine": engine}}
    for number, name in enumerate(adapters):
        write_adapter(folder / "adapters" / name, seed=number)
        make_token(folder, name, seed=200 + number)
        world["experts"][name] = adapter_expert(name)
    return world


def adapter_expert(name: str) -> dict[str, Any]:
    return {
        "adapter": {"path": f"adapters/{name}", "pool": "base"},
        "token": f"tokens/{name}.safetensors",
    }
