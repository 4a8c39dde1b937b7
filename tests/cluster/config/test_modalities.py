"""What a model reads, as cluster.yaml says it, and what follows for the routers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.config.cluster_config import ClusterConfig, check_config
from cluster.config.unused_settings import unused_settings
from cluster.errors import ConfigError
from cluster.serve.deploy_config import build_serve_config
from cluster.serve.route_table import route_table
from experts.token import ExpertToken
from router.table import RouteTable

MEDIA = {"allowed_hosts": ["pictures.example"], "max_bytes": 3_000_000}


def config_of(expert: dict[str, Any], **http: Any) -> ClusterConfig:
    remote = {"url": "https://eye.example/v1", "model": "eye"}
    data = {
        "meta": {"model": {"hub": "a/meta"}},
        "experts": {"eye": {"remote": remote, "token": "eye.safetensors", **expert}},
        "http": http,
    }
    return check_config(data, Path("cluster.yaml"), tokens_required=False, models_required=False)


def test_the_route_table_says_what_a_model_reads_and_from_where_pictures_may_come():
    table = RouteTable.model_validate(
        route_table(config_of({"modalities": ["text", "image"]}, media=MEDIA), 1)
    )
    assert table.experts["eye"].modalities == ("text", "image")
    assert table.meta.modalities == ("text",)
    assert (table.media.allowed_hosts, table.media.max_bytes) == (("pictures.example",), 3_000_000)


def test_without_a_model_that_reads_pictures_the_table_does_not_mention_them():
    fields = route_table(config_of({}), 1)
    assert "media" not in fields
    assert "modalities" not in fields["experts"]["eye"]


@pytest.mark.parametrize("modalities", [[], ["image"], ["text", "text"], ["text", "video"], "text"])
def test_modalities_are_known_ones_with_text(modalities: Any):
    with pytest.raises(ConfigError, match=r"experts\.eye\.modalities"):
        config_of({"modalities": modalities})


@pytest.mark.parametrize("host", ["https://pictures.example", "pictures.example/a", "*", "*.", "a b", ""])
def test_an_allowed_host_is_a_host(host: str):
    with pytest.raises(ConfigError, match=r"http\.media\.allowed_hosts"):
        config_of({"modalities": ["text", "image"]}, media={"allowed_hosts": [host]})


def local(folder: Path, meta: dict[str, Any]) -> ClusterConfig:
    data = {"meta": {"model": {"path": str(folder)}, **meta}}
    return check_config(data, Path("cluster.yaml"), tokens_required=False)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing")
    (folder / "config.json").write_text('{"vision_config": {"hidden_size": 8}}')
    (folder / "processor_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("meta", "modalities"),
    [
        ({"engine": {"kind": "vllm"}}, ("text", "image")),
        ({"engine": {"kind": "vllm"}, "modalities": ["text", "image"]}, ("text", "image")),
        ({"engine": {"kind": "vllm"}, "modalities": ["text"]}, ("text",)),
        ({}, ("text",)),
    ],
)
def test_a_model_of_this_cluster_reads_what_its_checkpoint_and_its_engine_can(
    seeing: Path, meta: dict[str, Any], modalities: tuple[str, ...]
):
    config = local(seeing, meta)
    assert RouteTable.model_validate(route_table(config, 1)).meta.modalities == modalities
    [app] = [app for app in build_serve_config(config)["applications"] if app["name"] == "meta"]
    assert app["args"]["engine"].get("images") == (True if "image" in modalities else None)


@pytest.mark.parametrize(
    ("pool", "modalities"),
    [
        ({"engine": {"kind": "vllm", "max_adapters": 1}}, ("text", "image")),
        ({"engine": {"kind": "vllm", "max_adapters": 1}, "modalities": ["text"]}, ("text",)),
        ({"engine": {"max_adapters": 1}}, ("text",)),
    ],
)
def test_adapters_read_what_their_pool_reads(
    seeing: Path, tmp_path: Path, pool: dict[str, Any], modalities: tuple[str, ...]
):
    ExpertToken("eye", torch.zeros(8), 0.0, "a/meta", "none").save(tmp_path / "eye.safetensors")
    data = {
        "meta": {"model": {"hub": "a/meta"}},
        "pools": {"eyes": {"model": {"path": str(seeing)}, **pool}},
        "experts": {"eye": {"adapter": {"uri": "s3://a/eye", "pool": "eyes"}, "token": "eye.safetensors"}},
        "http": {"media": MEDIA},
    }
    config = check_config(data, tmp_path / "cluster.yaml")
    assert RouteTable.model_validate(route_table(config, 1)).experts["eye"].modalities == modalities
    [app] = [app for app in build_serve_config(config)["applications"] if app["name"] == "pool-eyes"]
    assert app["args"]["engine"].get("images") == (True if "image" in modalities else None)
    assert any("http.media" in each for each in unused_settings(config)) == (modalities == ("text",))


def test_adapters_in_the_meta_read_text():
    adapter = {"adapter": {"uri": "s3://a/eye", "pool": "meta"}, "token": "eye.safetensors"}
    meta = {
        "model": {"hub": "a/meta"},
        "modalities": ["text", "image"],
        "engine": {"kind": "vllm", "max_adapters": 1},
    }
    config = check_config(
        {"meta": meta, "experts": {"eye": adapter}},
        Path("cluster.yaml"),
        tokens_required=False,
        models_required=False,
    )
    table = RouteTable.model_validate(route_table(config, 1))
    assert (table.meta.modalities, table.experts["eye"].modalities) == (("text", "image"), ("text",))


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"modalities": ["text", "image"]}, "engine transformers reads text only; use engine"),
        ({"modalities": ["image"], "engine": {"kind": "vllm"}}, "must have text"),
        ({"modalities": ["text", "audio"], "engine": {"kind": "vllm"}}, r"modalities"),
        ({"engine": {"kind": "vllm", "images": True}}, "use the model's modalities"),
    ],
)
def test_what_a_model_of_this_cluster_cannot_read_is_refused(
    seeing: Path, meta: dict[str, Any], problem: str
):
    with pytest.raises(ConfigError, match=problem):
        local(seeing, meta)


def test_a_checkpoint_without_what_prepares_pictures_cannot_be_said_to_read_them(
    seeing: Path, tmp_path: Path
):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert local(tmp_path, {"engine": {"kind": "vllm"}}).meta.reads == ["text"]
    with pytest.raises(ConfigError, match=r"no processor_config\.json or preprocessor_config\.json"):
        local(tmp_path, {"engine": {"kind": "vllm"}, "modalities": ["text", "image"]})


def test_files_on_other_machines_are_not_looked_into(seeing: Path):
    data = {"model": {"path": str(seeing)}, "engine": {"kind": "vllm"}}
    for meta, reads in ((data, ["text"]), ({**data, "modalities": ["text", "image"]}, ["text", "image"])):
        assert check_config({"meta": meta}, Path("cluster.yaml"), models_required=False).meta.reads == reads


def test_limits_of_pictures_that_no_model_reads_are_reported():
    assert [*unused_settings(config_of({}, media=MEDIA))] == [
        "http.media has no effect, because no model reads more than text; set modalities"
    ]
    assert not [*unused_settings(config_of({"modalities": ["text", "image"]}, media=MEDIA))]
