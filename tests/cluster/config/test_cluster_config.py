"""cluster.yaml: each problem is one line that names the file, the field and the remedy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.expert import RemoteExpertConfig
from cluster.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("meta", "roman"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    (tmp_path / "models" / "empty").mkdir()
    (tmp_path / "roman.safetensors").write_bytes(b"")
    (tmp_path / "keys.yaml").write_text("")
    return tmp_path


def world() -> dict[str, Any]:
    return {
        "meta": {"model": {"path": "models/meta"}},
        "experts": {"roman": {"model": {"path": "models/roman"}, "token": "roman.safetensors"}},
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """A good cluster with the value at a dotted path replaced or added."""
    data = world()
    *parents, last = path.split("/")
    block = data
    for key in parents:
        block = block.setdefault(key, {})
    block[last] = value
    return data


def load(folder: Path, data: Any, **options: bool) -> ClusterConfig:
    path = folder / "cluster.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
    return load_config(path, **options)


def refused(folder: Path, data: Any) -> list[str]:
    """The problems, without the file's name that each must begin with."""
    with pytest.raises(ConfigError) as caught:
        load(folder, data)
    prefix = f"{folder / 'cluster.yaml'}: "
    lines = str(caught.value).splitlines()
    assert all(line.startswith(prefix) for line in lines), lines
    return [line.removeprefix(prefix) for line in lines]


def test_only_the_meta_is_required(folder: Path):
    config = load(folder, {"meta": world()["meta"]})
    assert config.name == "generalist"
    assert config.experts == {}
    assert config.http.port == 8000
    assert config.meta.engine.max_streams == 32
    assert config.meta.target_ongoing_requests == 16


def test_relative_paths_start_at_the_folder_of_the_file(folder: Path, monkeypatch: Any):
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    (folder / "cluster.yaml").write_text(yaml.safe_dump(world()))
    config = load_config("../cluster.yaml")
    roman = config.local_experts["roman"]
    assert roman.model.model_dump(exclude_defaults=True) == {"path": folder / "models" / "roman"}
    assert roman.token == str(folder / "roman.safetensors")
    assert config.source == Path("../cluster.yaml")


def test_hub_ids_and_uris_are_not_changed(folder: Path):
    data = changed("experts/roman/token", "s3://bucket/roman.safetensors")
    data["meta"]["model"] = {"hub": "Qwen/Qwen3-8B", "revision": "main"}
    data["experts"]["roman"]["model"] = {"uri": "abfs://models@account.dfs.core.windows.net/roman"}
    config = load(folder, data)
    meta, roman = config.meta.model, config.local_experts["roman"].model
    assert meta.model_dump(exclude_defaults=True) == {"hub": "Qwen/Qwen3-8B", "revision": "main"}
    assert roman.model_dump(exclude_defaults=True) == data["experts"]["roman"]["model"]
    assert [meta.trust_remote_code, roman.trust_remote_code] == [False, False]
    assert config.local_experts["roman"].token == "s3://bucket/roman.safetensors"


def test_a_token_may_be_missing_for_the_command_that_makes_it(folder: Path):
    data = changed("experts/roman/token", "tokens/new.safetensors")
    assert load(folder, data, tokens_required=False).local_experts["roman"].token.endswith("new.safetensors")


def test_a_remote_expert_has_small_replicas_of_its_own(folder: Path):
    remote = {"url": "https://models.example/v1/", "model": "roman-7b", "api_key_env": "ROMAN_KEY"}
    config = load(folder, changed("experts/roman", {"remote": remote, "token": "roman.safetensors"}))
    roman = config.replicated_experts["roman"]
    assert isinstance(roman, RemoteExpertConfig)
    assert (roman.remote.url, roman.remote.continuation) == ("https://models.example/v1", "auto")
    assert (roman.resources.num_cpus, roman.target_ongoing_requests) == (0.1, 16)
    assert config.local_experts == {}
    assert list(config.models) == ["meta", "experts.roman"]


@pytest.mark.parametrize(
    "url", ["https://me:sk-secret@x/v1", "https://sk-secret@x/v1", "ftp://sk-secret@x?a"]
)
def test_credentials_in_an_address_are_refused_and_not_shown(folder: Path, url: str):
    data = changed("experts/roman", {"remote": {"url": url, "model": "m"}, "token": "roman.safetensors"})
    assert refused(folder, data) == [
        "experts.roman.remote.url: holds credentials; remove them, and name a variable in api_key_env"
    ]


REMOTES: list[tuple[str, Any, str]] = [
    (
        "experts/roman",
        {"remote": {"url": "https://x/v1", "model": "m"} | remote, "token": "s3://x"} | block,
        f"experts.roman{expected}",
    )
    for remote, block, expected in list[tuple[dict[str, Any], dict[str, Any], str]](
        [
            ({"url": None}, {}, ".remote.url: should be a valid string; it is empty"),
            ({"url": "x/v1"}, {}, ".remote.url: 'x/v1' is not an http:// or https:// URL; give one"),
            ({"url": "ftp://x/v1"}, {}, ".remote.url: 'ftp://x/v1' is not an http:// or https:// URL"),
            ({"url": "https:///v1"}, {}, ".remote.url: 'https:///v1' is not an http:// or https:// URL"),
            ({"url": "https://x:port/v1"}, {}, ".remote.url: is not a valid address; correct it"),
            ({"url": "https://x/v1\n"}, {}, ".remote.url: has characters that are not allowed in an address"),
            ({"url": "https://x/v1?key=1"}, {}, ".remote.url: has a part after ? or #; remove it"),
            (
                {"url": "https://x/chat/completions"},
                {},
                ".remote.url: 'https://x/chat/completions' names one",
            ),
            ({"model": ""}, {}, ".remote.model: should have at least 1 character"),
            ({"api_key": "sk-1"}, {}, ".remote.api_key: unknown key; did you mean 'api_key_env'?"),
            ({"api_key_env": "sk-abc"}, {}, ".remote.api_key_env: should match pattern"),
            ({"continuation": "maybe"}, {}, ".remote.continuation: should be 'auto', 'always' or 'never'"),
            ({"omit": ["model"]}, {}, ".remote.omit.0: should be 'temperature', 'top_p'"),
            ({"max_streams": 0}, {}, ".remote.max_streams: should be greater than or equal to 1; it is 0"),
            ({"read_timeout_s": "5"}, {}, ".remote.read_timeout_s: should be a valid number; it is '5'"),
            (
                {},
                {"resources": {"num_gpus": 1.0}},
                ".resources: num_gpus has no effect on a model that runs elsewhere",
            ),
            ({}, {"resources": {"tensor_parallel": 2}}, ".resources: tensor_parallel has no effect on a mod"),
            ({}, {"resources": {"num_cpus": 0.0}}, ".resources: reserves nothing; set num_cpus"),
            ({}, {"engine": {}}, ".engine: unknown key; remove it"),
            (
                {},
                {"autoscaling": {"max_replicas": 2, "target_tokens_in_flight": 10}},
                ": autoscaling.target_tokens_in_flight has no effect on a remote expert",
            ),
            (
                {"max_streams": 4},
                {"autoscaling": {"max_replicas": 2, "target_ongoing_requests": 5.0}},
                ": autoscaling.target_ongoing_requests 5 is above remote.max_streams 4",
            ),
            (
                {},
                {"deadlines": {"gap_s": 601.0}},
                ".deadlines.gap_s: 601 has no effect above routing.deadlines.total_s 600; lower it",
            ),
        ]
    )
]
REFUSED = [
    ("foo", 1, "foo: unknown key; remove it, or use one of: name, meta, experts"),
    ("name", "a b", "name: should match pattern"),
    ("name", "../x", "name: should match pattern"),
    ("meta", {}, "meta.model: is required; add it"),
    ("meta", None, "meta: must be a block of keys, not empty"),
    ("meta/model", {}, "meta.model: needs exactly one of path, hub"),
    ("meta/model", {"path": "models/meta", "hub": "a/b"}, "meta.model: needs exactly one of path, hub"),
    ("meta/model/path", "models/nowhere", "meta.model.path: no such folder '"),
    ("meta/model/path", "models/empty", "has no config.json; name the folder of a Hugging Face checkpoint"),
    ("meta/model/path", 3, "meta.model.path: "),
    ("meta/model/pat", "x", "meta.model.pat: unknown key; did you mean 'path'?"),
    ("meta/model", {"hub": "../../etc"}, "meta.model.hub: should match pattern"),
    ("meta/engine/kind", "vlm", "meta.engine: unknown engine kind; use kind: transformers or kind: vllm"),
    ("meta/engine", {"kind": "vllm", "num_threads": 2}, "meta.engine.num_threads: unknown key"),
    ("meta/engine", {"kind": "vllm", "swap_space": 4}, "meta.engine.swap_space: unknown key"),
    (
        "meta/engine",
        {"kind": "vllm", "tensor_parallel": 2},
        "meta.engine: tensor_parallel belongs to resources, which reserves the GPUs; move it there",
    ),
    (
        "meta/engine",
        {"kind": "vllm", "pipeline_parallel": 2},
        "meta.engine: pipeline_parallel belongs to resources, which reserves the GPUs; move it there",
    ),
    (
        "meta/engine",
        {"kind": "vllm", "extra": {"max_num_seqs": 8}},
        "meta.engine: extra.max_num_seqs cannot be set: use engine.max_streams",
    ),
    (
        "meta/engine",
        {"kind": "vllm", "extra": {"speculative_config": {"method": "ngram"}}},
        "meta.engine: extra.speculative_config cannot be set: experts and words are compared once per token",
    ),
    ("meta/engine", {"kind": "vllm", "extra": ["x"]}, "meta.engine.extra: "),
    ("meta/engine", {"kind": "vllm", "compilation": 3}, "meta.engine.compilation: must be a block of keys"),
    (
        "meta/engine",
        {"kind": "vllm", "compilation": {"mode": 3}, "enforce_eager": True},
        "meta.engine: compilation has no effect together with enforce_eager; remove one",
    ),
    (
        "meta/engine",
        {"kind": "vllm", "cache_bytes": 2**30, "gpu_memory_utilization": 0.5},
        "meta.engine: gpu_memory_utilization has no effect together with cache_bytes; remove one",
    ),
    (
        "meta/engine",
        {"kind": "vllm", "max_adapter_rank": 8},
        "meta.engine: max_adapter_rank has no effect without max_adapters; set that too or remove it",
    ),
    (
        "meta",
        {"model": {"path": "models/meta"}, "engine": {"kind": "vllm"}, "resources": {"num_gpus": 2}},
        "meta: resources.num_gpus 2: engine vllm would use only one of them; use tensor_parallel: 2",
    ),
    (
        "meta",
        {"model": {"path": "models/meta"}, "engine": {"kind": "vllm"}, "resources": {"num_gpus": 0.5}},
        "set engine.gpu_memory_utilization or engine.cache_bytes",
    ),
    (
        "meta/engine",
        {"kind": "openai", "url": "http://x"},
        "meta.engine: engine kind openai loads no model; give an expert remote: {url: …, model: …}",
    ),
    ("meta/engine/trust_remote_code", True, "meta.engine.trust_remote_code: unknown key"),
    ("meta/engine/dtype", "int8", "meta.engine.dtype: should be 'auto', 'float32'"),
    ("meta/engine/max_streams", 0, "meta.engine.max_streams: should be greater than or equal to 1; it is 0"),
    ("meta/engine/max_streams", True, "meta.engine.max_streams: should be a valid integer; it is True"),
    ("meta/engine/max_model_len", "512", "meta.engine.max_model_len: should be a valid integer; it is '512'"),
    (
        "meta/autoscaling/min_replica",
        1,
        "meta.autoscaling.min_replica: unknown key; did you mean 'min_replicas'?",
    ),
    ("meta/autoscaling/min_replicas", 2, "meta.autoscaling: min_replicas 2 is above max_replicas 1; lower"),
    (
        "meta/autoscaling",
        {"max_replicas": 2, "initial_replicas": 3},
        "initial_replicas 3 is not between 1 and 2",
    ),
    (
        "meta/autoscaling",
        {"max_replicas": 2, "downscale_to_zero_delay_s": 5.0},
        "meta.autoscaling: downscale_to_zero_delay_s has no effect here, where min_replicas is never 0",
    ),
    (
        "router/autoscaling/downscale_to_zero_delay_s",
        5.0,
        "router.autoscaling: downscale_to_zero_delay_s has no effect here, where min_replicas is never 0",
    ),
    (
        "meta/autoscaling",
        {"max_replicas": 2, "target_ongoing_requests": 33},
        "meta: autoscaling.target_ongoing_requests 33 is above engine.max_streams 32",
    ),
    (
        "meta/autoscaling",
        {"max_replicas": 2, "look_back_period_s": 10},
        "look_back_period_s: should be greater",
    ),
    ("meta/resources/num_gpu", 1, "meta.resources.num_gpu: unknown key; did you mean 'num_gpus'?"),
    ("meta/resources/num_gpus", 1.5, "num_gpus 1.5 is not whole; Ray takes fractions only below 1"),
    ("meta/resources/num_cpus", float("nan"), "meta.resources.num_cpus: should be a finite number"),
    ("meta/resources/custom", {"GPU": 1.0}, "custom.GPU is Ray's own; use num_cpus, num_gpus"),
    (
        "meta/resources/tensor_parallel",
        2,
        "meta: resources.tensor_parallel 2: engine transformers keeps model and KV cache on one device; "
        "use tensor_parallel: 1, and more replicas",
    ),
    (
        "meta/resources",
        {"tensor_parallel": 4, "num_gpus": 2},
        "num_gpus 2 contradicts tensor_parallel 4 × pipeline_parallel 1, which takes 4 whole GPUs; remove",
    ),
    (
        "meta/resources/pipeline_parallel",
        2,
        "meta: resources.pipeline_parallel 2: engine transformers keeps model and KV cache on one device; "
        "use pipeline_parallel: 1, and more replicas",
    ),
    (
        "meta/resources/tensor_parallel",
        0,
        "meta.resources.tensor_parallel: should be greater than 0; it is 0",
    ),
    (
        "meta/resources/num_cpus",
        0,
        "meta.resources: reserves nothing; set num_cpus, num_gpus or custom resources",
    ),
    ("router/resources/num_cpus", 0, "router.resources: reserves nothing; set num_cpus"),
    (
        "meta/resources/num_cpus",
        -1,
        "meta.resources.num_cpus: should be greater than or equal to 0; it is -1",
    ),
    ("meta/resources/memory_bytes", "16GiB", "meta.resources.memory_bytes: should be a valid integer"),
    ("meta/resources/accelerator_type", "", "meta.resources.accelerator_type: "),
    ("meta/resources/custom/fast", 0, "meta.resources.custom.fast: should be greater than 0; it is 0"),
    ("meta/resources/labels/zone", 1, "meta.resources.labels.zone: should be a valid string; it is 1"),
    (
        "meta/model",
        {"uri": "models/meta"},
        "meta.model.uri: 'models/meta' does not begin with one of abfs://, file://",
    ),
    (
        "meta/model",
        {"uri": "http://x/y"},
        "'http://x/y' does not begin with one of abfs://, file://, gs://, https://",
    ),
    (
        "meta/model",
        {"uri": "simplecache::s3://b/x"},
        "meta.model.uri: 'simplecache::s3://b/x' does not begin",
    ),
    ("meta/model", {"uri": "https://me:pw@x/y"}, "meta.model.uri: contains credentials; remove them"),
    ("meta/model", {"uri": "s3://key@bucket/y"}, "meta.model.uri: contains credentials; remove them"),
    ("meta/model", {"uri": "https://x/y?token=z"}, "has a part after ? or #; name a plain folder"),
    ("meta/model", {"uri": "s3://bucket/"}, "meta.model.uri: 's3://bucket/' names no folder; add the path"),
    ("meta/model", {"uri": "s3://b/x", "hub": "a/b"}, "meta.model: needs exactly one of path, hub, uri"),
    (
        "meta/model",
        {"uri": "s3://b/x", "revision": "main"},
        "meta.model.revision: unknown key; remove it, or use one of: trust_remote_code, adapter, uri",
    ),
    (
        "meta/autoscaling",
        {"max_replicas": 2, "target_tokens_in_flight": 0},
        "meta.autoscaling.target_tokens_in_flight: should be greater than 0; it is 0",
    ),
    (
        "meta",
        {
            "model": {"path": "models/meta"},
            "engine": {"max_streams": 4, "max_model_len": 100},
            "autoscaling": {"max_replicas": 2, "target_tokens_in_flight": 401},
        },
        "meta: autoscaling.target_tokens_in_flight 401 is above engine.max_streams × max_model_len = 400",
    ),
    (
        "meta/autoscaling",
        {"max_replicas": 2, "downscale_delay_s": -1},
        "meta.autoscaling.downscale_delay_s: ",
    ),
    ("meta/autoscaling", {"max_replicas": 2, "upscaling_factor": 0}, "meta.autoscaling.upscaling_factor: "),
    (
        "meta/autoscaling",
        {"max_replicas": 2, "aggregation_function": "median"},
        "meta.autoscaling.aggregation_function: should be 'mean', 'max' or 'min'; it is 'median'",
    ),
    ("meta/autoscaling/max_replicas", 0, "meta.autoscaling.max_replicas: should be greater than 0; it is 0"),
    (
        "router/autoscaling",
        {"max_replicas": 2, "target_tokens_in_flight": 100},
        "router: autoscaling.target_tokens_in_flight has no effect on a router; remove it",
    ),
    (
        "router/resources/tensor_parallel",
        2,
        "router: resources.tensor_parallel has no effect on a router; remove it",
    ),
    (
        "router/resources/pipeline_parallel",
        2,
        "router: resources.pipeline_parallel has no effect on a router; remove it",
    ),
    ("router/max_replicas_per_node", 0, "router.max_replicas_per_node: should be greater than or equal to 1"),
    ("experts", [], "experts: must be a block of keys, not []"),
    ("experts/roman", None, "experts.roman: needs exactly one of model, adapter, remote"),
    ("experts/roman", {"token": "s3://x"}, "experts.roman: needs exactly one of model, adapter, remote"),
    ("experts/roman/remote", {}, "experts.roman: needs exactly one of model, adapter, remote"),
    ("experts/roman/token", "nowhere.safetensors", "make it with `etr learn` or correct the path"),
    ("experts/roman/toke", "x", "experts.roman.toke: unknown key; did you mean 'token'?"),
    (
        "experts/roman/cold_start",
        "never",
        "experts.roman.cold_start: should be 'wait' or 'meta'; it is 'never'",
    ),
    *REMOTES,
    ("experts/meta", world()["experts"]["roman"], "experts: the name 'meta' is reserved; rename that expert"),
    (
        "experts/Roman Numerals",
        world()["experts"]["roman"],
        "experts: 'Roman Numerals' is not a valid expert name; use",
    ),
    ("routing/when", "never", "routing.when: should be 'anywhere' or 'start'"),
    ("routing/max_handoffs", -1, "routing.max_handoffs: should be greater than or equal to 0; it is -1"),
    ("routing/call_bias", float("inf"), "routing.call_bias: should be a finite number"),
    ("routing/deadlines/gap_s", "3", "routing.deadlines.gap_s: should be a valid number; it is '3'"),
    ("routing/call_bias", ".inf", "routing.call_bias: should be a valid number"),
    ("routing/deadlines/gap", 3, "routing.deadlines.gap: unknown key; did you mean 'gap_s'?"),
    ("routing/deadlines/total_s", 0, "routing.deadlines.total_s: should be greater than 0; it is 0"),
    ("http/port", 0, "http.port: should be greater than or equal to 1; it is 0, correct it"),
    ("http/cors_origins", ["chat.example"], "http.cors_origins.0: should match pattern"),
    ("http/cors_origins", ["https://chat.example/"], "http.cors_origins.0: should match pattern"),
    ("http/aliases", {"a b": "g"}, "http.aliases.a b: should match pattern"),
    ("http/aliases", {"gpt-4o": "nobody"}, "http.aliases.gpt-4o: no model 'nobody'; use one of: "),
    ("http/aliases", {"generalist/x": "generalist"}, "http.aliases.generalist/x: models of this cluster are"),
    ("http/aliases", {"generalist": "generalist"}, "http.aliases.generalist: models of this cluster are"),
    ("http/allow_chat_template", "yes", "http.allow_chat_template: should be a valid boolean"),
    ("http/separate_caches", True, "http: separate_caches has no effect without API keys; set keys_file or"),
    ("http/port", 65536, "http.port: should be less than or equal to 65535; it is 65536, correct it"),
    ("http/port", "8000", "http.port: should be a valid integer; it is '8000', correct it"),
    ("http/keys_file", "nowhere.yaml", "http.keys_file: no such file '"),
    ("http/keys_file", "models", "make it with `etr keys create` or correct the path"),
    ("http/keys_env", "MY KEYS", "http.keys_env: should match pattern"),
    ("http/keys_env", "", "http.keys_env: should match pattern"),
    ("http/keys", ["secret"], "http.keys: unknown key; did you mean 'keys_env'?"),
    ("meta/model/trust_remote_code", 1, "meta.model.trust_remote_code: should be a valid boolean; it is 1"),
    (
        "meta/model",
        {"uri": "s3://b/x", "trust_remote_code": True},
        "meta.model.trust_remote_code: has no effect with uri, because Python files are never fetched; "
        "remove it",
    ),
    ("meta/model", {"trust_remote_code": True}, "meta.model: needs exactly one of path, hub, uri"),
    (
        "experts/roman/on_unavailable",
        "never",
        "experts.roman.on_unavailable: should be 'wait' or 'meta'; it is 'never'",
    ),
    (
        "experts/roman/when_away",
        "wait",
        "experts.roman.when_away: unknown key; did you mean 'on_unavailable'?",
    ),
    (
        "meta/on_unavailable",
        "wait",
        "meta.on_unavailable: unknown key; remove it, or use one of: autoscaling",
    ),
    ("meta/deadlines/gap_s", 0, "meta.deadlines.gap_s: should be greater than 0; it is 0"),
    ("meta/deadlines/total_s", 5, "meta.deadlines.total_s: unknown key"),
    (
        "meta/deadlines/first_token_s",
        601,
        "meta.deadlines.first_token_s: 601 has no effect above routing.deadlines.total_s 600; lower it",
    ),
    (
        "experts/roman/deadlines/gap_s",
        600.5,
        "experts.roman.deadlines.gap_s: 600.5 has no effect above routing.deadlines.total_s 600; lower it",
    ),
    ("meta/health/period_s", 0, "meta.health.period_s: should be greater than 0; it is 0"),
    ("meta/health/timeout", 3, "meta.health.timeout: unknown key; did you mean 'timeout_s'?"),
    ("router/health", {"period_s": 1}, "router.health: unknown key; remove it, or use one of: autoscaling"),
    ("routing/retries", -1, "routing.retries: should be greater than or equal to 0; it is -1"),
    ("routing/max_resumes", 1.5, "routing.max_resumes: should be a valid integer"),
    ("routing/deadlines/queue_s", 0, "routing.deadlines.queue_s: should be greater than 0; it is 0"),
    ("routing/deadlines/drain_s", 0, "routing.deadlines.drain_s: should be greater than 0; it is 0"),
    (
        "routing/deadlines",
        {"queue_s": 61.0, "total_s": 60.0},
        "routing.deadlines: queue_s 61 has no effect above total_s 60; lower it",
    ),
    (
        "routing/deadlines/drain_s",
        601,
        "routing.deadlines: drain_s 601 has no effect above total_s 600; lower it",
    ),
    (
        "routing/deadlines/first_token_s",
        601,
        "routing.deadlines: first_token_s 601 has no effect above total_s 600",
    ),
    ("router/limits/max_requests", 0, "router.limits.max_requests: should be greater than or equal to 1"),
    (
        "router/limits",
        {"max_requests": 100, "max_waiting": 101},
        "router.limits: max_waiting 101 has no effect above max_requests 100, which counts waiting answers "
        "too",
    ),
    (
        "router",
        {
            "limits": {"max_requests": 10, "max_waiting": 5},
            "autoscaling": {"max_replicas": 2, "target_ongoing_requests": 11},
        },
        "router: autoscaling.target_ongoing_requests 11 is above limits.max_requests 10",
    ),
    ("http/max_body_bytes", 1023, "http.max_body_bytes: should be greater than or equal to 1024"),
    (
        "meta/autoscaling",
        {"min_replicas": 0},
        "meta.autoscaling: min_replicas 0 would leave no replica to answer requests",
    ),
    (
        "meta/resources/num_gpus",
        2,
        "meta: resources.num_gpus 2: engine transformers keeps model and KV cache on one device; "
        "use num_gpus: 1, and more replicas",
    ),
    (
        "router/autoscaling",
        {"min_replicas": 0},
        "router.autoscaling: min_replicas 0 would leave no replica to answer requests",
    ),
]


@pytest.mark.parametrize(("path", "value", "expected"), REFUSED, ids=[f"{p}={v}"[:60] for p, v, _ in REFUSED])
def test_a_wrong_value_is_refused_in_one_line(folder: Path, path: str, value: Any, expected: str):
    problems = refused(folder, changed(path, value))
    assert len(problems) == 1
    assert expected in problems[0]
    assert path.split("/")[0] in problems[0]


def test_all_problems_are_reported_at_once(folder: Path):
    data = changed("http/port", 0)
    data["meta"]["engin"] = {}
    data["experts"]["roman"]["token"] = "nowhere"
    assert [problem.split(":")[0] for problem in refused(folder, data)] == [
        "meta.engin",
        "experts.roman.token",
        "http.port",
    ]


def test_two_experts_of_the_same_name_are_refused(folder: Path):
    text = yaml.safe_dump(world(), sort_keys=False) + "  roman:\n    token: s3://x\n"
    line = text.splitlines().index("  roman:") + 1
    last = len(text.splitlines()) - 1
    assert refused(folder, text) == [
        f"experts: two experts are named 'roman' (lines {line} and {last}); rename one"
    ]


def test_a_key_that_is_given_twice_is_refused(folder: Path):
    assert refused(folder, "http:\n  port: 1\n  port: 2\n") == [
        "http.port: is given twice (lines 2 and 3); remove one"
    ]


def test_a_syntax_error_names_the_line(folder: Path):
    (problem,) = refused(folder, "meta:\n  model: {path: x\nexperts: 1\n")
    assert problem.startswith("line 3, column 8: not valid YAML: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_file_names_the_required_key(folder: Path, text: str):
    assert refused(folder, text) == ["meta: is required; add it"]


@pytest.mark.parametrize("text", ["[]", "just words", "3"])
def test_a_file_that_is_not_a_mapping_is_refused(folder: Path, text: str):
    (problem,) = refused(folder, text)
    assert problem.startswith("must be a block of keys")


def test_yaml_cannot_create_python_objects(folder: Path):
    (problem,) = refused(folder, "meta: !!python/object/apply:os.getcwd []\n")
    assert "not valid YAML" in problem


def test_a_file_that_cannot_be_read_is_named(folder: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file; name the cluster\.yaml to use"):
        load_config(folder / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(folder)
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not a UTF-8 text file"):
        load_config(folder / "binary.yaml")


def test_an_alias_inside_its_own_anchor_is_refused(folder: Path):
    assert refused(folder, "meta: &a\n  model: *a\n")


def key_paths(block: dict[str, Any], parents: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths = [(*parents, key) for key in block]
    return paths + [p for k, v in block.items() if isinstance(v, dict) for p in key_paths(v, (*parents, k))]


NAMES_OF_THE_USER = [("experts",), ("meta", "resources", "custom"), ("meta", "resources", "labels")]
FULL: dict[str, Any] = {
    "meta": {
        "model": {"path": "models/meta"},
        "engine": {"dtype": "float32", "max_model_len": 512, "max_streams": 8, "num_threads": 1},
        "autoscaling": {
            "min_replicas": 1,
            "max_replicas": 2,
            "initial_replicas": 1,
            "target_ongoing_requests": 4.0,
            "target_tokens_in_flight": 1000,
            "upscale_delay_s": 1.0,
            "downscale_delay_s": 60.0,
            "upscaling_factor": 1.0,
            "downscaling_factor": 0.5,
            "look_back_period_s": 30.0,
            "aggregation_function": "max",
        },
        "resources": {
            "num_cpus": 0.5,
            "num_gpus": 1.0,
            "memory_bytes": 1024,
            "accelerator_type": "H100",
            "custom": {"fast": 1.0},
            "labels": {"zone": "a"},
        },
        "deadlines": {"first_token_s": 20.0, "gap_s": 5.0},
        "health": {"period_s": 2.0, "timeout_s": 3.0},
    },
    "experts": {
        "roman": {
            "model": {"path": "models/roman", "trust_remote_code": True},
            "token": "roman.safetensors",
            "on_unavailable": "wait",
            "autoscaling": {"min_replicas": 0, "max_replicas": 2, "downscale_to_zero_delay_s": 600.0},
        }
    },
    "routing": {
        "when": "start",
        "max_handoffs": 2,
        "call_bias": 0.5,
        "retries": 3,
        "max_resumes": 4,
        "deadlines": {"gap_s": 1.0, "queue_s": 2.0, "drain_s": 60.0},
    },
    "http": {"port": 9000, "max_body_bytes": 2048, "keys_file": "keys.yaml", "keys_env": "ETR_KEYS"},
    "router": {
        "autoscaling": {"min_replicas": 1, "max_replicas": 3},
        "resources": {"num_cpus": 0.5},
        "max_replicas_per_node": 1,
        "limits": {"max_waiting": 20, "max_requests": 300},
    },
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_misspelt_key_is_refused_by_its_path_with_the_right_spelling(folder: Path, data: st.DataObject):
    """Doubles one letter in any key of any block, except in names that the user chose."""
    path = data.draw(
        st.sampled_from([path for path in key_paths(FULL) if path[:-1] not in NAMES_OF_THE_USER])
    )
    where = data.draw(st.integers(0, len(path[-1]) - 1))
    wrong = path[-1][: where + 1] + path[-1][where:]
    full = copy.deepcopy(FULL)
    block: dict[str, Any] = full
    for key in path[:-1]:
        block = block[key]
    block[wrong] = block.pop(path[-1])
    problems = refused(folder, full)
    dotted = ".".join((*path[:-1], wrong))
    # Without one of these, the kind of the block is unknown.
    decisive = path[-2:] in (("model", "path"), ("roman", "model"))
    expected = "needs exactly one of" if decisive else f"{dotted}: unknown key; did you mean '{path[-1]}'?"
    assert any(expected in problem for problem in problems), problems


def wrong_for(value: Any) -> st.SearchStrategy[Any]:
    """Values that a field with a value of this kind never accepts."""
    block = st.just({"typo": 1})
    listed = st.lists(st.integers(), max_size=2)
    if isinstance(value, dict):
        return listed | st.integers() | st.text(max_size=5) | st.none()
    if isinstance(value, bool):
        return listed | st.integers() | st.text(max_size=5) | st.none() | block
    if isinstance(value, str):
        return listed | st.integers() | st.floats(allow_nan=False) | st.booleans() | block
    numbers = st.sampled_from([float("nan"), float("inf"), float("-inf")])
    numbers = numbers | st.integers(max_value=-(10**6)) if value != FULL["routing"]["call_bias"] else numbers
    return listed | st.text(max_size=5) | st.booleans() | block | numbers


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_wrong_value_is_refused_by_the_path_of_its_field(folder: Path, data: st.DataObject):
    path = data.draw(st.sampled_from(key_paths(FULL)))
    full = copy.deepcopy(FULL)
    block: dict[str, Any] = full
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = data.draw(wrong_for(block[path[-1]]))
    dotted = ".".join(path)
    assert any(problem.startswith(dotted) for problem in refused(folder, full))


@pytest.mark.parametrize("path", [("meta",), ("meta", "model"), ("experts", "roman", "token")])
def test_a_required_key_that_is_missing_is_named(folder: Path, path: tuple[str, ...]):
    full = copy.deepcopy(FULL)
    block: dict[str, Any] = full
    for key in path[:-1]:
        block = block[key]
    del block[path[-1]]
    assert refused(folder, full) == [f"{'.'.join(path)}: is required; add it"]


def test_there_are_at_least_forty_kinds_of_wrong_values():
    assert len({expected for _, _, expected in REFUSED}) >= 40


def test_the_full_example_is_accepted(folder: Path):
    config = load(folder, FULL)
    assert config.meta.autoscaling.max_replicas == 2
    assert config.routing.deadlines.first_token_s == 30.0
    assert config.http.keys_file == folder / "keys.yaml"


def test_a_short_total_s_does_not_conflict_with_default_deadlines(folder: Path):
    deadlines = load(folder, changed("routing/deadlines/total_s", 2.0)).routing.deadlines
    assert (deadlines.queue_s, deadlines.total_s) == (60.0, 2.0)


@pytest.mark.parametrize(
    ("given", "used"), [({}, 50.0), ({"drain_s": 20.0}, 20.0), ({"drain_s": 50.0}, 50.0)]
)
def test_drain_s_is_total_s_unless_the_file_sets_it(folder: Path, given: dict[str, float], used: float):
    config = load(folder, changed("routing/deadlines", {"total_s": 50.0, **given}))
    assert config.routing.deadlines.longest_drain_s == used
    assert "drain_s" not in config.routing.rules()["deadlines"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    total_s=st.integers(1, 1000),
    where=st.sampled_from(["routing", "meta", "experts/roman"]),
    value_s=st.integers(1, 1000),
    data=st.data(),
)
def test_no_deadline_may_be_above_total_s(
    folder: Path, total_s: int, where: str, value_s: int, data: st.DataObject
):
    names = ["first_token_s", "gap_s"] + (["queue_s", "drain_s"] if where == "routing" else [])
    name = data.draw(st.sampled_from(names))
    world = changed(f"{where}/deadlines/{name}", value_s)
    world.setdefault("routing", {}).setdefault("deadlines", {})["total_s"] = total_s
    if value_s <= total_s:
        load(folder, world)
        return
    (problem,) = refused(folder, world)
    assert problem.startswith(f"{where.replace('/', '.')}.deadlines")
    assert name in problem
    assert problem.endswith("lower it")


def test_a_router_scales_up_before_it_refuses_requests(folder: Path):
    assert load(folder, world()).router.target_ongoing_requests == 128.0
    small = load(folder, changed("router/limits", {"max_requests": 20, "max_waiting": 10}))
    assert small.router.target_ongoing_requests == 10.0
