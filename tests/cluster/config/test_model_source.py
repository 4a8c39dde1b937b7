"""A model that names an adapter: `model: {path, adapter}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.learning.checkpoints import checkpoints
from cluster.serve.deploy_config import build_serve_config
from deployments.apps import ModelArgs
from tests.cluster.serve.test_deploy_config import app, load
from tests.support.pool_world import make_pool_world
from tests.tiny.adapters import write_adapter


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    write_adapter(tmp_path / "adapters" / "old")
    return make_pool_world(tmp_path, "law")


@pytest.mark.parametrize("engine", [{}, {"kind": "vllm"}])
def test_an_adapter_of_a_model_reaches_its_engine_and_learning(
    tmp_path: Path, world: dict[str, Any], engine: dict[str, Any]
):
    world["experts"]["roman"] |= {
        "model": {"path": "models/roman", "adapter": "adapters/old"},
        "engine": engine,
    }
    config = load(tmp_path, world)
    args = ModelArgs.model_validate(app(build_serve_config(config), "expert-roman")["args"])
    assert args.model.adapter == str(tmp_path / "adapters" / "old")
    assert checkpoints(config)["roman"].adapter == args.model.adapter


def test_an_adapter_of_a_model_may_have_an_address(tmp_path: Path, world: dict[str, Any]):
    world["experts"]["roman"]["model"]["adapter"] = "s3://bucket/old"
    assert checkpoints(load(tmp_path, world))["roman"].adapter == "s3://bucket/old"


@pytest.mark.parametrize(
    ("block", "adapter", "complaint"),
    [
        ("experts", "adapters/nowhere", "experts.roman.model.adapter: '/.*nowhere: no such folder; put"),
        ("experts", "models/roman", "experts.roman.model.adapter: .*roman: has no adapter_config.json"),
        ("experts", "ftp://x/y", "experts.roman.model.adapter: 'ftp://x/y' does not begin with one of"),
        (
            "pools",
            "adapters/old",
            "pools.base: model.adapter: the adapters of a pool were trained on",
        ),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(
    tmp_path: Path, world: dict[str, Any], block: str, adapter: str, complaint: str
):
    (model,) = (each["model"] for name, each in world[block].items() if name in ("roman", "base"))
    model["adapter"] = adapter
    with pytest.raises(ConfigError, match=complaint.replace("'/", "")):
        load(tmp_path, world)
