"""Pools in cluster.yaml: which are refused, how they are deployed, and what a change of one does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cluster.config.cluster_config import load_config
from cluster.errors import ConfigError
from cluster.serve.deploy_config import build_serve_config
from cluster.serve.plan import Change, Plan, compare
from cluster.serve.serve_details import ServeDetails
from deployments.apps import ModelArgs
from deployments.model import ModelSettings
from experts.adapter import adapter_digest, read_adapter
from experts.errors import ModelLoadError
from router.table import ModelEntry, RouteTable
from tests.cluster.serve.test_deploy_config import app, deployment, load
from tests.cluster.serve.test_plan import by_app, serve_runs
from tests.support.pool_world import adapter_expert, make_pool_world
from tests.tiny.adapters import write_adapter


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    return make_pool_world(tmp_path, "law", "chem")


def changed(world: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    block = world
    for key in parents:
        block = block.setdefault(key, {})
    block[last] = value
    return world


def refused(folder: Path, world: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, world)
    (problem,) = caught.value.problems
    return problem.removeprefix(f"{folder / 'cluster.yaml'}: ")


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (
            "experts/law/adapter/pool",
            "nowhere",
            "experts.law.adapter.pool: there is no pool 'nowhere'; correct it, or add the pool (pools: ",
        ),
        (
            "pools/base/engine",
            {},
            "pools.base: engine.max_adapters is required: the most experts",
        ),
        (
            "pools/base/engine",
            {"kind": "vllm"},
            "pools.base: engine.max_adapters is required: the most experts",
        ),
        (
            "pools/base/engine/max_adapters",
            1,
            "pools.base.engine.max_adapters: 1 is below the 2 experts of the pool; raise it",
        ),
        (
            "experts/roman/engine",
            {"kind": "vllm", "max_adapters": 1},
            "experts.roman: engine.max_adapters has an effect only in pools and in the meta; remove it",
        ),
        ("experts/law/adapter/path", "adapters/nowhere", "experts.law.adapter.path: "),
        ("experts/law/adapter", {"pool": "base"}, "experts.law.adapter: needs exactly one of path, uri"),
        (
            "experts/law/adapter",
            {"uri": "ftp://x/y", "pool": "base"},
            "experts.law.adapter.uri: 'ftp://x/y' does not begin with one of",
        ),
        ("experts/law/adapter/path", "models/base", "has no adapter_config.json; name the folder of a LoRA"),
        ("experts/law/resources", {"num_gpus": 1.0}, "experts.law.resources: unknown key"),
        ("pools/base/deadlines", {"gap_s": 601.0}, "pools.base.deadlines.gap_s: 601 has no effect above"),
    ],
)
def test_a_problem_with_a_pool_names_the_field_and_the_remedy(
    tmp_path: Path, world: dict[str, Any], path: str, value: Any, complaint: str
):
    assert complaint in refused(tmp_path, changed(world, path, value))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("router", "pools: 'router' is not a valid name"),
        ("Base", "pools: 'Base' is not a valid name"),
        ("roman", "pools.roman: an expert has the same name; rename one"),
    ],
)
def test_the_name_of_a_pool_is_valid_and_unique(
    tmp_path: Path, world: dict[str, Any], name: str, complaint: str
):
    world["pools"][name] = world["pools"]["base"]
    assert refused(tmp_path, world).startswith(complaint)


def test_an_adapter_that_does_not_fit_its_pool_is_refused_before_anything_runs(
    tmp_path: Path, world: dict[str, Any]
):
    write_adapter(tmp_path / "adapters" / "law", rank=32)
    assert "has rank 32, above engine.max_adapter_rank 16; raise it" in refused(tmp_path, world)
    world["pools"]["base"]["engine"]["max_adapter_rank"] = 32
    load(tmp_path, world)
    write_adapter(tmp_path / "adapters" / "law", width=16)
    assert "was trained on a model of hidden size 16, the base here has 8" in refused(tmp_path, world)
    settings = tmp_path / "adapters" / "law" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "use_dora": True}))
    assert "law: trains DoRA, which cannot be applied to single rows of a batch" in refused(tmp_path, world)


def test_a_pool_runs_on_the_default_engine_too(tmp_path: Path, world: dict[str, Any]):
    world["pools"]["base"]["engine"] = {"max_adapters": 2}
    args = ModelArgs.model_validate(app(build_serve_config(load(tmp_path, world)), "pool-base")["args"])
    assert (args.engine.kind, args.engine.max_adapters, args.engine.adapter_rank) == ("transformers", 2, 16)


def test_a_pool_may_have_no_experts_yet_and_may_scale_to_zero(tmp_path: Path, world: dict[str, Any]):
    del world["experts"]["law"]
    world["experts"]["chem"] |= {"cold_start": "meta", "on_unavailable": "wait"}
    world["pools"] |= {"empty": world["pools"]["base"]}
    world["pools"]["base"] = {**world["pools"]["base"], "autoscaling": {"min_replicas": 0}}
    config = load(tmp_path, world)
    assert list(config.models) == ["meta", "experts.roman", "pools.base", "pools.empty"]
    deploy = build_serve_config(config)
    assert deployment(deploy, "pool-empty")["user_config"]["adapters"] == {}
    table = RouteTable.model_validate(deployment(deploy, "router")["user_config"])
    chem = ModelEntry(
        app="pool-base",
        adapter="chem",
        scales_to_zero=True,
        cold_start="meta",
        on_unavailable="wait",
        max_streams=256,
    )
    assert table.experts["chem"] == chem


def test_a_pool_is_one_application_and_its_experts_share_it(tmp_path: Path, world: dict[str, Any]):
    world["experts"]["law"]["adapter"] = {"uri": "s3://bucket/law", "pool": "base"}
    deploy = build_serve_config(load(tmp_path, world))
    assert [one["name"] for one in deploy["applications"]] == ["expert-roman", "pool-base", "meta", "router"]
    args = ModelArgs.model_validate(app(deploy, "pool-base")["args"])
    assert (args.name, args.engine.max_adapters) == ("base", 4)
    settings = ModelSettings.model_validate(deployment(deploy, "pool-base")["user_config"])
    assert settings.adapters is not None
    assert settings.adapters["law"].version == "s3://bucket/law"
    chem = tmp_path / "adapters" / "chem"
    assert (settings.adapters["chem"].source, settings.adapters["chem"].version) == (
        str(chem),
        adapter_digest(chem),
    )
    table = RouteTable.model_validate(deployment(deploy, "router")["user_config"])
    assert {name: (entry.app, entry.adapter) for name, entry in table.experts.items()} == {
        "chem": ("pool-base", "chem"),
        "law": ("pool-base", "law"),
        "roman": ("expert-roman", None),
    }
    assert set(deployment(deploy, "meta")["user_config"]["tokens"]) == {"chem", "law", "roman"}
    assert build_serve_config(load(tmp_path, world)) == deploy


def plan_of(folder: Path, world: dict[str, Any], running: ServeDetails) -> Plan:
    return compare(build_serve_config(load(folder, world)), running)


def test_adding_an_adapter_is_an_update_in_place(tmp_path: Path, world: dict[str, Any]):
    law = world["experts"].pop("law")
    running = serve_runs(build_serve_config(load(tmp_path, world)))
    world["experts"]["law"] = law
    plan = plan_of(tmp_path, world, running)
    assert {name: one.change for name, one in by_app(plan).items()} == {
        "expert-roman": Change.KEEP,
        "meta": Change.UPDATE,
        "pool-base": Change.UPDATE,
        "router": Change.UPDATE,
    }
    assert plan.first is None


def test_new_weights_in_the_same_folder_are_an_update_but_a_copy_is_not(
    tmp_path: Path, world: dict[str, Any]
):
    running = serve_runs(build_serve_config(load(tmp_path, world)))
    folder = tmp_path / "adapters" / "law"
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert plan_of(tmp_path, world, running).changes_nothing
    write_adapter(folder, seed=9)
    found = by_app(plan_of(tmp_path, world, running))
    assert [name for name, one in found.items() if one.change is not Change.KEEP] == ["pool-base"]
    assert found["pool-base"].change is Change.UPDATE
    (why,) = found["pool-base"].why
    assert why.startswith("adapters.law.digest: ")


def test_a_removed_adapter_is_masked_before_it_is_unloaded(tmp_path: Path, world: dict[str, Any]):
    running = serve_runs(build_serve_config(load(tmp_path, world)))
    del world["experts"]["law"]
    write_adapter(tmp_path / "adapters" / "greek")
    shutil.copy(tmp_path / "tokens" / "law.safetensors", tmp_path / "tokens" / "greek.safetensors")
    world["experts"]["roman"] = {**world["experts"]["roman"]}
    plan = plan_of(tmp_path, world, running)
    assert plan.first is not None
    names = [one["name"] for one in plan.first["applications"]]
    assert names == [one["name"] for one in plan.deploy["applications"]]
    assert set(deployment(plan.first, "pool-base")["user_config"]["adapters"]) == {"chem", "law"}
    assert set(deployment(plan.first, "router")["user_config"]["experts"]) == {"chem", "roman"}
    assert set(deployment(plan.deploy, "pool-base")["user_config"]["adapters"]) == {"chem"}


def test_on_kubernetes_adapter_paths_are_paths_in_the_pods(tmp_path: Path, world: dict[str, Any]):
    from cluster.kuberay.render import build_rayservice

    meta = {"hub": "org/meta"}
    for name in ("law", "chem"):
        world["experts"][name]["adapter"]["path"] = f"/models/adapters/{name}"
    world["experts"]["roman"]["model"] = world["meta"]["model"] = meta
    world["pools"]["base"] |= {"model": {"path": "/models/base"}, "resources": {"num_gpus": 1.0}}
    world["kubernetes"] = {"image": "etr:test", "models": {"claim": "models"}}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(world, sort_keys=False))
    manifest = build_rayservice(load_config(path, models_required=False))
    groups = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [one["groupName"] for one in groups] == ["cpu1", "gpu1-cpu1"]
    deploy = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    assert deployment(deploy, "pool-base")["user_config"]["adapters"] == {
        name: {"source": f"/models/adapters/{name}"} for name in ("chem", "law")
    }
    path.write_text(yaml.safe_dump(world | {"experts": {"law": adapter_expert("law")}}, sort_keys=False))
    with pytest.raises(ConfigError, match=r"adapter\.path: 'adapters/law' is not absolute"):
        load_config(path, models_required=False)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"1234567890"), "is broken"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json: is broken"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "is not LORA"),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
            "peft_type IA3 is not LORA",
        ),
        (
            lambda folder: save_file({"w": torch.zeros(1)}, folder / "adapter_model.safetensors"),
            "holds no lora_A",
        ),
    ],
)
def test_a_folder_that_is_not_a_lora_adapter_is_refused(tmp_path: Path, harm: Any, complaint: str):
    folder = write_adapter(tmp_path / "law")
    assert (read_adapter(folder).rank, read_adapter(folder).hidden_size) == (8, 8)
    harm(folder)
    with pytest.raises(ModelLoadError, match=complaint) as caught:
        read_adapter(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_in_half_precision_can_be_read(tmp_path: Path):
    folder = write_adapter(tmp_path / "law")
    tensors = {name: one.bfloat16() for name, one in load_file(folder / "adapter_model.safetensors").items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    assert read_adapter(folder).rank == 8
    digest = adapter_digest(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 16}))
    assert adapter_digest(folder) != digest
