"""cluster.yaml → Serve's deploy config: every key is one of Serve's, equal input gives equal output."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve._private.version import DeploymentVersion
from ray.serve.config import AutoscalingConfig as ServeAutoscaling
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema
from safetensors.torch import save_file

from cluster.config.api_key_file import create_key
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.replicated_model import AutoscalingConfig
from cluster.errors import ConfigError
from cluster.serve.connect import num_logical_cpus
from cluster.serve.deploy_config import build_serve_config
from cluster.serve.deploy_schema import check_deploy_config, unknown_keys
from deployments.apps import ModelArgs, RemoteArgs, RouterArgs
from deployments.model import ModelSettings
from deployments.scaling import POLICY
from experts.cache import CACHE_VARIABLE
from experts.engine.config import OpenAIConfig, VllmConfig
from experts.fetch import fetch, fetched
from experts.token import ExpertToken, checkpoint_fingerprint
from router.table import RouteTable

DIM = 8


def make_world(folder: Path, *experts: str) -> dict[str, Any]:
    """A cluster.yaml's content with a head for the meta and a token for every expert, as real files."""
    for number, name in enumerate(("meta", *experts)):
        model = folder / "models" / name
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        weight = torch.randn(16, DIM, generator=torch.Generator().manual_seed(number))
        save_file({"lm_head.weight": weight}, model / "model.safetensors")
    for number, name in enumerate(experts):
        make_token(folder, name, seed=100 + number)
    blocks = {
        name: {"model": {"path": f"models/{name}"}, "token": f"tokens/{name}.safetensors"} for name in experts
    }
    return {"meta": {"model": {"path": "models/meta"}}, "experts": blocks}


def make_token(
    folder: Path, name: str, *, seed: int, saved_as: str | None = None, meta: str = "meta"
) -> None:
    found = checkpoint_fingerprint(folder / "models" / meta)
    assert found is not None
    vector = torch.randn(DIM, generator=torch.Generator().manual_seed(seed))
    token = ExpertToken(name, vector, 0.5, meta_name=meta, meta_fingerprint=found[0])
    token.save(folder / "tokens" / f"{saved_as or name}.safetensors")


def load(folder: Path, data: dict[str, Any]) -> ClusterConfig:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_config(path)


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    return make_world(tmp_path, "roman", "morse")


@pytest.fixture
def deploy(tmp_path: Path, world: dict[str, Any]) -> dict[str, Any]:
    world["experts"]["morse"]["autoscaling"] = {"min_replicas": 0, "max_replicas": 3, "upscale_delay_s": 1.0}
    world["experts"]["morse"]["cold_start"] = "meta"
    world["experts"]["morse"]["resources"] = {
        "num_gpus": 0.5,
        "memory_bytes": 1024,
        "accelerator_type": "H100",
        "custom": {"fast": 1.0},
        "labels": {"zone": "a"},
    }
    world["routing"] = {"when": "start", "deadlines": {"total_s": 60.0}}
    return build_serve_config(load(tmp_path, world), table_version=7)


def app(deploy: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in deploy["applications"] if one["name"] == name)
    return dict(found)


def deployment(deploy: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = app(deploy, name)["deployments"]
    return dict(found)


def test_serves_own_models_accept_the_deploy_config(deploy: dict[str, Any]):
    taken = ServeDeploySchema.model_validate(copy.deepcopy(deploy))
    assert [one.name for one in taken.applications] == ["expert-morse", "expert-roman", "meta", "router"]
    assert list(unknown_keys(deploy)) == []
    assert json.loads(json.dumps(deploy)) == deploy


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ((), "typo"),
        (("http_options",), "http_options.typo"),
        (("applications", 0), "expert-morse.typo"),
        (("applications", 0, "deployments", 0), "expert-morse.Model.typo"),
        (
            ("applications", 0, "deployments", 0, "autoscaling_config"),
            "expert-morse.Model.autoscaling_config.typo",
        ),
        (
            ("applications", 0, "deployments", 0, "autoscaling_config", "policy"),
            "expert-morse.Model.autoscaling_config.policy.typo",
        ),
        (
            ("applications", 0, "deployments", 0, "ray_actor_options"),
            "expert-morse.Model.ray_actor_options.typo",
        ),
    ],
)
def test_a_key_that_serve_would_ignore_is_refused(
    deploy: dict[str, Any], where: tuple[Any, ...], expected: str
):
    block: Any = deploy
    for key in where:
        block = block[key]
    block["typo"] = 1
    ServeDeploySchema.model_validate(copy.deepcopy(deploy))  # Serve says nothing
    with pytest.raises(ConfigError, match=f"cluster.yaml: {expected}: Serve has no such key"):
        check_deploy_config(deploy, Path("cluster.yaml"))


@pytest.mark.parametrize("name", ["expert-roman", "meta", "router"])
@pytest.mark.parametrize("block", ["args", "user_config"])
def test_arguments_that_our_builders_would_refuse_are_refused(deploy: dict[str, Any], name: str, block: str):
    (one,) = (one for one in deploy["applications"] if one["name"] == name)
    (one if block == "args" else one["deployments"][0])[block]["typo"] = 1
    with pytest.raises(ConfigError, match=rf"{name}\.\S*{block}\.typo: Extra inputs"):
        check_deploy_config(deploy, Path("cluster.yaml"))


def test_the_order_of_keys_in_the_file_does_not_change_the_config(tmp_path: Path, world: dict[str, Any]):
    first = json.dumps(build_serve_config(load(tmp_path, world)))
    turned = {key: world[key] for key in reversed(world)}
    turned["experts"] = {name: world["experts"][name] for name in reversed(world["experts"])}
    assert json.dumps(build_serve_config(load(tmp_path, turned))) == first


def test_every_deployment_has_the_scaling_policy_from_the_first_deploy(deploy: dict[str, Any]):
    for one in deploy["applications"]:
        (found,) = one["deployments"]
        assert found["autoscaling_config"]["target_ongoing_requests"] > 0
        assert found["autoscaling_config"]["policy"] == {"policy_function": POLICY}
        assert "target_tokens_in_flight" not in found["autoscaling_config"]
        assert "num_replicas" not in found
    morse = deployment(deploy, "expert-morse")["autoscaling_config"]
    assert (morse["min_replicas"], morse["max_replicas"], morse["upscale_delay_s"]) == (0, 3, 1.0)


@pytest.mark.parametrize(
    ("block", "change"),
    [
        ("autoscaling", {"min_replicas": 2, "max_replicas": 5}),
        ("autoscaling", {"max_replicas": 3, "target_ongoing_requests": 3.0, "upscale_delay_s": 1.0}),
        ("autoscaling", {"max_replicas": 3, "target_tokens_in_flight": 4000}),
        ("autoscaling", {"min_replicas": 0, "max_replicas": 3, "downscale_to_zero_delay_s": 9.0}),
        ("token", "tokens/other.safetensors"),
        ("on_unavailable", "wait"),
        ("deadlines", {"first_token_s": 100.0, "gap_s": 20.0}),
        ("health", {"period_s": 1.0, "timeout_s": 2.0}),
    ],
)
def test_settings_that_change_while_models_serve_restart_no_model(
    tmp_path: Path, world: dict[str, Any], block: str, change: Any
):
    """By what Serve itself goes by when it decides between new replicas and a `reconfigure`."""
    before = build_serve_config(load(tmp_path, world))
    make_token(tmp_path, "roman", seed=9, saved_as="other")
    world["experts"]["roman"][block] = change
    after = build_serve_config(load(tmp_path, world))
    assert after != before
    assert [versions(one) for one in after["applications"]] == [
        versions(one) for one in before["applications"]
    ]


@pytest.mark.parametrize(
    ("block", "change"),
    [
        ("routing", {"retries": 5, "max_resumes": 20, "deadlines": {"queue_s": 1.0, "drain_s": 30.0}}),
        ("router", {"limits": {"max_requests": 64, "max_waiting": 16}}),
        ("http", {"keys_file": "keys.yaml"}),
        ("http", {"cors_origins": ["https://chat.example"], "allow_chat_template": True}),
        ("tracing", {"endpoint": "http://collector:4318/v1/traces"}),
        ("log_format", "json"),
    ],
)
def test_settings_of_the_router_restart_no_model(
    tmp_path: Path, world: dict[str, Any], block: str, change: Any
):
    before = build_serve_config(load(tmp_path, world))
    create_key(tmp_path / "keys.yaml", "billing", {})
    world[block] = change
    after = build_serve_config(load(tmp_path, world))
    assert after != before
    assert [versions(one) for one in after["applications"]] == [
        versions(one) for one in before["applications"]
    ]


@pytest.mark.parametrize(
    ("block", "change"),
    [
        ("engine", {"max_streams": 8}),
        ("model", {"path": "models/morse"}),
        ("model", {"path": "models/roman", "trust_remote_code": True}),
        ("resources", {"num_gpus": 1.0}),
        ("resources", {"labels": {"zone": "a"}}),
    ],
)
def test_settings_that_need_new_replicas_restart_only_that_model(
    tmp_path: Path, world: dict[str, Any], block: str, change: Any
):
    before = build_serve_config(load(tmp_path, world))
    world["experts"]["roman"][block] = change
    after = build_serve_config(load(tmp_path, world))
    changed = [
        new["name"]
        for new, old in zip(after["applications"], before["applications"], strict=True)
        if versions(new) != versions(old)
    ]
    assert changed == ["expert-roman"]


def versions(one: dict[str, Any]) -> tuple[str, int, int, Any]:
    schema = ServeApplicationSchema.model_validate(copy.deepcopy(one))
    (found,) = one["deployments"]
    version = DeploymentVersion(
        get_app_code_version(schema),
        DeploymentConfig(),
        found["ray_actor_options"],
        placement_group_bundles=found.get("placement_group_bundles"),
        max_replicas_per_node=found.get("max_replicas_per_node"),
    )
    return (
        version.code_version,
        version.ray_actor_options_hash,
        version.placement_group_options_hash,
        version.max_replicas_per_node,
    )


def test_every_model_has_our_request_router_from_the_first_deploy(deploy: dict[str, Any]):
    for name in ("expert-morse", "expert-roman", "meta"):
        block = deployment(deploy, name)["request_router_config"]
        assert set(block) <= set(RequestRouterConfig.model_fields)
        assert RequestRouterConfig(**block).get_request_router_class().__name__ == "HealthAwareRequestRouter"
    # Serve's proxy chooses among the routers.
    assert "request_router_config" not in deployment(deploy, "router")


def test_the_routers_know_whose_pages_templates_and_names_are_allowed(
    tmp_path: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def table() -> RouteTable:
        router = deployment(build_serve_config(load(tmp_path, world)), "router")
        return RouteTable.model_validate(router["user_config"])

    assert (table().cors_origins, table().allow_chat_template, table().aliases) == ((), False, {})
    world["http"] = {"cors_origins": ["https://chat.example", "*"], "allow_chat_template": True}
    assert (table().cors_origins, table().allow_chat_template) == (("https://chat.example", "*"), True)
    assert not table().separate_caches
    monkeypatch.setenv("KEYS", "key-of-alice-0123456789")
    world["http"] = {"keys_env": "KEYS", "separate_caches": True}
    assert table().separate_caches
    world["http"] = {"aliases": {"gpt-4o": table().name}}
    assert table().aliases == world["http"]["aliases"]


def test_serve_never_refuses_before_the_router_does(tmp_path: Path, world: dict[str, Any]):
    for limits in ({}, {"max_requests": 20, "max_waiting": 5}, {"max_requests": 5000}):
        world["router"] = {"limits": limits}
        deploy = build_serve_config(load(tmp_path, world))
        router = deployment(deploy, "router")
        table = RouteTable.model_validate(router["user_config"])
        assert table.limits.model_dump() == {"max_waiting": 256, "max_requests": 1024} | limits
        assert (
            router["max_ongoing_requests"] == router["max_queued_requests"] == 2 * table.limits.max_requests
        )
        assert router["autoscaling_config"]["target_ongoing_requests"] <= table.limits.max_requests / 2
        model = deployment(deploy, "meta")
        assert model["max_queued_requests"] >= max(4 * 32, 2 * table.limits.max_requests)


def test_each_model_has_its_own_deadlines_and_health_checks(tmp_path: Path, world: dict[str, Any]):
    world["meta"] |= {"deadlines": {"first_token_s": 5.0}, "engine": {"max_streams": 8}}
    world["experts"]["roman"] |= {
        "deadlines": {"gap_s": 90.0},
        "health": {"period_s": 1.0, "timeout_s": 2.0},
        "on_unavailable": "wait",
    }
    deploy = build_serve_config(load(tmp_path, world))
    table = RouteTable.model_validate(deployment(deploy, "router")["user_config"])
    roman, morse = table.experts["roman"], table.experts["morse"]
    assert [(one.first_token_s, one.gap_s) for one in (table.meta, roman, morse)] == [
        (5.0, None),
        (None, 90.0),
        (None, None),
    ]
    assert (roman.on_unavailable, morse.on_unavailable) == ("wait", "meta")
    assert (table.meta.max_streams, roman.max_streams) == (8, 32)
    assert {app: checks(deploy, app) for app in ("expert-roman", "expert-morse", "meta", "router")} == {
        "expert-roman": (1.0, 2.0),
        "expert-morse": (5.0, 10.0),
        "meta": (5.0, 10.0),
        "router": (5.0, 10.0),
    }


def checks(deploy: dict[str, Any], app: str) -> tuple[float, float]:
    found = deployment(deploy, app)
    return found["health_check_period_s"], found["health_check_timeout_s"]


def test_models_drain_for_drain_s_and_routers_for_the_longest_answer(tmp_path: Path, world: dict[str, Any]):
    world["routing"] = {
        "retries": 3,
        "max_resumes": 5,
        "deadlines": {"total_s": 50.0, "wake_s": 25.0, "queue_s": 2.0, "drain_s": 20.0},
    }
    deploy = build_serve_config(load(tmp_path, world))
    drain_s = {
        app: deployment(deploy, app)["graceful_shutdown_timeout_s"]
        for app in ("meta", "expert-roman", "router")
    }
    assert drain_s == {"meta": 20.0, "expert-roman": 20.0, "router": 75.0}
    table = RouteTable.model_validate(deployment(deploy, "router")["user_config"])
    assert (table.retries, table.max_resumes, table.deadlines.queue_s) == (3, 5, 2.0)


def test_trust_remote_code_is_per_model(tmp_path: Path, world: dict[str, Any]):
    world["experts"]["roman"]["model"]["trust_remote_code"] = True
    deploy = build_serve_config(load(tmp_path, world))
    trusted = {
        name: ModelArgs.model_validate(app(deploy, name)["args"]).model.trust_remote_code
        for name in ("expert-morse", "expert-roman", "meta")
    }
    assert trusted == {"expert-morse": False, "expert-roman": True, "meta": False}


def test_the_token_target_is_added_to_the_other_user_config(tmp_path: Path, world: dict[str, Any]):
    world["meta"]["autoscaling"] = {"max_replicas": 2, "target_tokens_in_flight": 4000}
    deploy = build_serve_config(load(tmp_path, world), table_version=3)
    settings = ModelSettings.model_validate(deployment(deploy, "meta")["user_config"])
    assert (settings.target_tokens_in_flight, settings.table_version) == (4000, 3)
    assert settings.tokens is not None
    assert sorted(settings.tokens) == ["morse", "roman"]
    assert deployment(deploy, "expert-roman")["user_config"] == {"target_tokens_in_flight": None}


def test_every_autoscaling_setting_of_serve_can_be_set_in_the_file():
    own = set(AutoscalingConfig.model_fields)
    serves = {
        name
        for name, field in ServeAutoscaling.model_fields.items()
        if not (field.description or "").startswith("[DEPRECATED]")
    }
    assert serves - own == {"policy"}
    assert own - serves == {"target_tokens_in_flight"}


def test_routers_are_limited_per_node_only_if_the_file_says_so(tmp_path: Path, world: dict[str, Any]):
    assert "max_replicas_per_node" not in deployment(build_serve_config(load(tmp_path, world)), "router")
    world["router"] = {"autoscaling": {"min_replicas": 2, "max_replicas": 4}, "max_replicas_per_node": 1}
    deploy = build_serve_config(load(tmp_path, world))
    assert deployment(deploy, "router")["max_replicas_per_node"] == 1
    assert "max_replicas_per_node" not in deployment(deploy, "meta")


def test_a_model_by_uri_is_sent_as_its_uri(tmp_path: Path, world: dict[str, Any]):
    world["experts"]["roman"]["model"] = {"uri": "s3://bucket/roman"}
    deploy = build_serve_config(load(tmp_path, world))
    args = app(deploy, "expert-roman")["args"]
    assert args["model"] == {"uri": "s3://bucket/roman"}
    assert ModelArgs.model_validate(args).model.source == "s3://bucket/roman"


def test_a_models_arguments_and_limits_come_from_its_block(deploy: dict[str, Any], tmp_path: Path):
    args = ModelArgs.model_validate(app(deploy, "expert-morse")["args"])
    assert (args.name, args.model.path) == ("morse", str(tmp_path / "models/morse"))
    assert ModelArgs.model_validate(app(deploy, "meta")["args"]).name == "meta"
    model = deployment(deploy, "expert-morse")
    assert model["max_ongoing_requests"] == args.engine.max_streams == 32
    assert model["graceful_shutdown_timeout_s"] == 60.0
    assert model["ray_actor_options"] == {
        "num_cpus": 1.0,
        "num_gpus": 0.5,
        "memory": 1024,
        "accelerator_type": "H100",
        "resources": {"fast": 1.0},
        "label_selector": {"zone": "a"},
    }


def test_vllm_gets_the_devices_that_are_reserved(tmp_path: Path, world: dict[str, Any]):
    parallel = {"tensor_parallel": 2, "pipeline_parallel": 3}
    world["meta"] |= {"engine": {"kind": "vllm"}, "resources": parallel}
    deploy = build_serve_config(load(tmp_path, world))
    check_deploy_config(deploy, tmp_path)
    engine = ModelArgs.model_validate(app(deploy, "meta")["args"]).engine
    assert engine == VllmConfig(tensor_parallel=2, pipeline_parallel=3)
    assert len(deployment(deploy, "meta")["placement_group_bundles"]) == 6


def test_vllm_gets_the_settings_that_only_vllm_knows(tmp_path: Path, world: dict[str, Any]):
    settings = {
        "quantization": "fp8_per_tensor",
        "kv_cache_dtype": "fp8",
        "max_batch_tokens": 4096,
        "compilation": {"cudagraph_mode": "FULL", "pass_config": {"fuse_allreduce_rms": True}},
        "extra": {"attention_backend": "FLASHINFER", "long_prefill_token_threshold": 2048},
    }
    world["meta"] |= {"engine": {"kind": "vllm", **settings}}
    deploy = build_serve_config(load(tmp_path, world))
    check_deploy_config(deploy, tmp_path)
    assert ModelArgs.model_validate(app(deploy, "meta")["args"]).engine == VllmConfig(**settings)


def test_the_router_gets_the_route_table(deploy: dict[str, Any]):
    router = app(deploy, "router")
    table = RouteTable.model_validate(router["deployments"][0]["user_config"])
    assert router["route_prefix"] == "/"
    assert [one["route_prefix"] for one in deploy["applications"]] == [None, None, None, "/"]
    assert RouterArgs.model_validate(router["args"]).max_body_bytes == 1_048_576
    assert (table.table_version, table.name, table.when, table.deadlines.total_s) == (
        7,
        "generalist",
        "start",
        60.0,
    )
    assert {name: entry.app for name, entry in table.experts.items()} == {
        "morse": "expert-morse",
        "roman": "expert-roman",
    }
    assert [name for name, entry in table.experts.items() if entry.scales_to_zero] == ["morse"]
    assert {name: entry.cold_start for name, entry in table.experts.items()} == {
        "morse": "meta",
        "roman": "wait",
    }


def test_the_meta_gets_every_token_inlined(deploy: dict[str, Any], tmp_path: Path):
    user_config = deployment(deploy, "meta")["user_config"]
    assert user_config["table_version"] == 7
    for name in ("roman", "morse"):
        sent = ExpertToken.from_inline(user_config["tokens"][name])
        saved = ExpertToken.load(tmp_path / "tokens" / f"{name}.safetensors")
        assert sent.vector.equal(saved.vector)
        assert sent.bias == saved.bias


@pytest.mark.parametrize(("host", "where"), [("127.0.0.1", "HeadOnly"), ("0.0.0.0", "EveryNode")])
def test_proxies_run_on_every_node_unless_http_host_is_loopback(tmp_path: Path, host: str, where: str):
    world = make_world(tmp_path)
    world["http"] = {"host": host, "port": 8123}
    deploy = build_serve_config(load(tmp_path, world))
    assert deploy["proxy_location"] == where
    assert deploy["http_options"] == {"host": host, "port": 8123}


def refused(folder: Path, world: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_serve_config(load(folder, world))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{folder / 'cluster.yaml'}: experts.roman.token: ")
    return problem


def test_a_token_made_for_another_meta_is_refused(tmp_path: Path, world: dict[str, Any]):
    make_token(tmp_path, "roman", seed=1, meta="morse")
    problem = refused(tmp_path, world)
    assert "learned for meta 'morse'" in problem
    assert "this meta is 'meta'" in problem
    assert "run `etr learn`" in problem


def test_tokens_of_two_metas_are_refused_even_if_the_meta_is_on_another_machine(
    tmp_path: Path, world: dict[str, Any]
):
    world["meta"]["model"] = {"hub": "org/meta"}
    world["experts"] = {name: world["experts"][name] for name in ("morse", "roman")}
    make_token(tmp_path, "roman", seed=1, meta="morse")
    assert "learned for meta 'morse'" in refused(tmp_path, world)


def test_tokens_are_checked_against_the_fetched_files_of_a_meta_by_uri(
    tmp_path: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    uri = f"file://{tmp_path}/models/meta"
    world["meta"]["model"] = {"uri": uri}
    world["experts"] = {"roman": world["experts"]["roman"]}
    make_token(tmp_path, "roman", seed=1, meta="morse")
    build_serve_config(load(tmp_path, world))
    assert fetched(uri) is None  # no model is fetched to look at its head
    fetch(uri)
    problem = refused(tmp_path, world)
    assert "learned for meta 'morse'" in problem
    assert "this meta is 'meta'" in problem


def test_another_experts_token_is_refused(tmp_path: Path, world: dict[str, Any]):
    make_token(tmp_path, "other", seed=1, saved_as="roman")
    assert "is the token of expert 'other'; correct the path" in refused(tmp_path, world)


def test_the_same_vector_for_two_experts_is_refused(tmp_path: Path, world: dict[str, Any]):
    world["experts"] = {name: world["experts"][name] for name in ("morse", "roman")}
    make_token(tmp_path, "roman", seed=1)
    make_token(tmp_path, "morse", seed=1)
    assert "has the same vector as expert 'morse'; run `etr learn` with both" in refused(tmp_path, world)


def test_a_file_that_is_not_a_token_is_refused(tmp_path: Path, world: dict[str, Any]):
    path = tmp_path / "tokens" / "roman.safetensors"
    path.write_bytes(b"not safetensors")
    problem = refused(tmp_path, world)
    assert str(path) in problem
    assert "run `etr learn`" in problem


def test_a_remote_expert_is_an_application_without_a_model_or_a_key(
    tmp_path: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROMAN_KEY", "sk-canary")
    roman = world["experts"]["roman"]
    del roman["model"]
    roman["remote"] = {"url": "https://x/v1", "model": "r-7b", "api_key_env": "ROMAN_KEY", "max_streams": 8}
    roman["autoscaling"] = {"min_replicas": 0, "max_replicas": 2}
    config = load(tmp_path, world)
    deploy = build_serve_config(config)
    assert "sk-canary" not in json.dumps(deploy)
    assert list(unknown_keys(deploy)) == []
    args = RemoteArgs.model_validate(app(deploy, "expert-roman")["args"])
    assert app(deploy, "expert-roman")["import_path"] == "deployments.apps:build_remote"
    assert (args.name, args.remote) == ("roman", OpenAIConfig(**roman["remote"]))
    found = deployment(deploy, "expert-roman")
    assert (found["max_ongoing_requests"], found["ray_actor_options"]["num_cpus"]) == (8, 0.1)
    entry = RouteTable.model_validate(deployment(deploy, "router")["user_config"]).experts["roman"]
    assert (entry.app, entry.scales_to_zero, entry.max_streams) == ("expert-roman", True, 8)
    roman["remote"]["continuation"] = "never"
    after = build_serve_config(load(tmp_path, world))
    changed = [
        new["name"]
        for new, old in zip(after["applications"], deploy["applications"], strict=True)
        if new != old
    ]
    assert changed == ["expert-roman"]
    assert num_logical_cpus(config) >= 2 * (1 + 1 + 0.2)
