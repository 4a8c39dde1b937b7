"""The commands that read and change a running cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config.api_key_file import create_key
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.config_editor import set_value
from cluster.serve.client import ServeClient
from tests.fakes.serve_api import FakeServe


def test_etr_apply_and_status(cli: Any, config: ClusterConfig, client: ServeClient):
    applied = cli("apply", str(config.source), "--address", client.address)
    assert applied.exit_code == 0, applied.output
    assert f"http://127.0.0.1:{config.http.port}/v1" in applied.stdout
    assert "expert-roman" in applied.stderr
    shown = json.loads(cli("status", "--json", "--address", client.address).stdout)
    assert {model["name"]: model["state"] for model in shown["models"]}["meta"] == "ready"
    assert "morse" in cli("status", "--address", client.address).stdout


def test_etr_ask_streams_the_answer_and_shows_who_writes_it(cli: Any, client: ServeClient):
    plain = cli("ask", "14?", "--url", client.address)
    assert (plain.exit_code, plain.stdout) == (0, "Hello! XIV\n")
    traced = cli("ask", "14?", "--url", client.address, "--trace")
    assert traced.stdout == "            meta  Hello!\n           roman  XIV\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_etr_ask_finds_the_one_cluster_here_whatever_its_model_is_called(
    cli: Any, keep_head: Callable[[str], None], serve: FakeServe, client: ServeClient, host: str
):
    serve.name = "polymath"
    serve.http_options = {"host": host, "port": int(client.address.rpartition(":")[2])}
    keep_head("folder-name")
    asked = cli("ask", "14?")
    assert (asked.exit_code, asked.stdout) == (0, "Hello! XIV\n"), asked.output


def test_etr_ask_does_not_guess_among_several_clusters(cli: Any, keep_head: Callable[[str], None]):
    keep_head("one")
    keep_head("two")
    asked = cli("ask", "14?")
    assert asked.exit_code == 1
    assert (
        asked.stderr
        == "error: several clusters run here: one, two; choose one with --name (etr ask: --url)\n"
    )


def test_etr_down_of_an_unknown_cluster_creates_nothing(cli: Any, tmp_path: Path):
    assert "was not started on this machine" in cli("down", "--name", "typo").stdout
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("ask", "hi", "--url", "URL", "--model", "nobody"), "answers 404: model 'nobody' does not exist"),
        (("ask", "broken", "--url", "URL"), "the answer broke off before its end"),
        (("ask", "hi", "--url", "http://127.0.0.1:1"), "does not answer"),
        (("up", "nowhere.yaml"), "nowhere.yaml: no such file; name the cluster.yaml to use"),
        (("status",), "no head that etr started runs here; run `etr up` or give --address"),
        (("down",), "no head that etr started runs here"),
        (("apply", "CONFIG"), "no head of cluster 'generalist' runs here"),
        (
            ("up", "CONFIG"),
            "is taken or cannot be used (Address already in use); set http.port in cluster.yaml",
        ),
        (("learn", "CONFIG", "--data", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_etr_errors_are_one_line_and_an_exit_code(
    cli: Any, config: ClusterConfig, client: ServeClient, arguments: tuple[str, ...], expected: str
):
    given = [{"URL": client.address, "CONFIG": str(config.source)}.get(word, word) for word in arguments]
    result = cli(*given)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_wrong_command_line_exits_with_code_2(cli: Any):
    assert cli("upp").exit_code == 2
    assert cli("learn").exit_code == 2


def test_etr_plan_shows_what_apply_would_do_and_changes_nothing(
    cli: Any, config: ClusterConfig, client: ServeClient, serve: FakeServe
):
    path = str(config.source)
    alone = cli("plan", path)
    assert alone.exit_code == 0, alone.output
    assert alone.stdout.count("starts") == 4
    assert cli("apply", path, "--address", client.address).exit_code == 0
    assert cli("plan", path, "--address", client.address).stdout == "nothing would change\n"
    assert cli("scale", "roman", "--max", "2", "--config", path).exit_code == 0
    shown = cli("plan", path, "--address", client.address)
    (row,) = [line for line in shown.stdout.splitlines() if "expert-roman" in line]
    assert "changes in place" in row
    assert "autoscaling_config.max_replicas: 1 → 2" in row
    changes = json.loads(cli("plan", path, "--address", client.address, "--json").stdout)
    assert {change["app"]: change["change"] for change in changes} == {
        "expert-morse": "keep",
        "expert-roman": "update",
        "meta": "keep",
        "router": "keep",
    }
    assert serve.num_puts == 1


def test_etr_scale_writes_the_file_and_changes_only_that_model(
    cli: Any, config: ClusterConfig, client: ServeClient, serve: FakeServe
):
    path = str(config.source)
    cli("apply", path, "--address", client.address)
    before = {app: serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")}
    scaled = cli("scale", "roman", "--min", "2", "--max", "3", "--config", path, "--address", client.address)
    assert scaled.exit_code == 0, scaled.output
    assert load_config(path).local_experts["roman"].autoscaling.min_replicas == 2
    assert len(serve.apps["expert-roman"]["deployments"]["Model"]["replicas"]) == 2
    assert {app: serve.pid(app) for app in before} == before
    assert serve.table_version("router") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("scale", "nobody", "--max", "2"), "there is no 'nobody'; use one of: meta, router, roman, morse"),
        (("scale", "roman"), "give --min, --max or both"),
        (("scale", "roman", "--min", "3"), "min_replicas 3 is above max_replicas 1"),
        (("scale", "meta", "--min", "0"), "min_replicas 0 would leave no replica to answer requests"),
        (("experts", "remove", "nobody"), "experts.nobody: there is no such expert; experts: roman, morse"),
    ],
)
def test_an_invalid_change_is_refused_before_the_file_is_written(
    cli: Any, config: ClusterConfig, serve: FakeServe, arguments: tuple[str, ...], complaint: str
):
    before = config.source.read_bytes()
    refused = cli(*arguments, "--config", str(config.source))
    assert refused.exit_code in (1, 2)
    assert complaint in " ".join(refused.stderr.replace("│", " ").split())
    assert config.source.read_bytes() == before
    assert serve.num_puts == 0


def test_etr_experts_remove_removes_it_from_the_file_and_the_cluster(
    cli: Any, config: ClusterConfig, serve: FakeServe, keep_head: Callable[[str], None]
):
    keep_head(config.name)
    path = str(config.source)
    assert cli("apply", path).exit_code == 0
    removed = cli("experts", "remove", "morse", "--config", path)
    assert removed.exit_code == 0, removed.output
    assert list(load_config(path).experts) == ["roman"]
    assert sorted(serve.apps) == ["expert-roman", "meta", "router"]
    assert "expert-morse" in removed.stderr
    assert (config.source.parent / "tokens" / "morse.safetensors").exists()


def test_without_a_running_cluster_only_the_file_is_changed(
    cli: Any, config: ClusterConfig, serve: FakeServe
):
    removed = cli("experts", "remove", "morse", "--config", str(config.source))
    assert removed.exit_code == 0, removed.output
    assert f"put it into effect with: etr apply {config.source}" in removed.stdout
    assert serve.num_puts == 0


def test_no_apply_does_not_change_the_running_cluster(
    cli: Any, config: ClusterConfig, serve: FakeServe, keep_head: Callable[[str], None]
):
    keep_head(config.name)
    path = str(config.source)
    cli("apply", path)
    assert cli("scale", "meta", "--max", "2", "--config", path, "--no-apply").exit_code == 0
    assert load_config(path).meta.autoscaling.max_replicas == 2
    assert serve.num_puts == 1


COLD_START = "experts.roman.cold_start: meta has no effect while experts.roman.autoscaling.min_replicas is 1"


@pytest.mark.parametrize(
    ("block", "arguments", "warning"),
    [
        (
            {"cold_start": "meta", "autoscaling": {"min_replicas": 0}},
            ("--min", "1"),
            f"{COLD_START}; set that to 0 or remove it",
        ),
        (
            {"autoscaling": {"max_replicas": 4, "upscale_delay_s": 5.0}},
            ("--min", "3", "--max", "3"),
            "experts.roman.autoscaling.upscale_delay_s: has no effect while min_replicas and max_replicas "
            "are "
            "both 3; raise max_replicas or remove it",
        ),
        (
            {"autoscaling": {"min_replicas": 0, "max_replicas": 2, "downscale_to_zero_delay_s": 60.0}},
            ("--min", "1"),
            "experts.roman.autoscaling.downscale_to_zero_delay_s: has no effect while min_replicas is 1; "
            "set it "
            "to 0 or remove this",
        ),
    ],
    ids=["cold_start", "delay", "delay to zero"],
)
def test_etr_scale_warns_about_a_setting_that_has_no_effect_at_the_new_scale(
    cli: Any, config: ClusterConfig, block: dict[str, Any], arguments: tuple[str, ...], warning: str
):
    path = config.source
    for key, value in block.items():
        set_value(path, ("experts", "roman", key), value)
    quiet = cli("plan", str(path))
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    scaled = cli("scale", "roman", *arguments, "--config", str(path), "--no-apply")
    assert scaled.exit_code == 0, scaled.output
    assert scaled.stderr == f"warning: {path}: {warning}\n"
    assert load_config(path).local_experts["roman"].autoscaling.min_replicas == int(arguments[1])


def test_etr_scale_of_the_router_keeps_a_limit_per_node_that_has_no_effect_now(
    cli: Any, config: ClusterConfig
):
    path = config.source
    set_value(path, ("router",), {"autoscaling": {"max_replicas": 2}, "max_replicas_per_node": 1})
    scaled = cli("scale", "router", "--max", "1", "--config", str(path), "--no-apply")
    assert scaled.exit_code == 0, scaled.output
    assert (
        "router.max_replicas_per_node: 1 has no effect while autoscaling.max_replicas is 1" in scaled.stderr
    )


def test_an_expert_that_an_api_key_names_is_not_removed_from_the_file(
    cli: Any, config: ClusterConfig, serve: FakeServe, keep_head: Callable[[str], None]
):
    keep_head(config.name)
    path = config.source
    create_key(path.parent / "keys.yaml", "billing", {"experts": ["morse"]})
    set_value(path, ("http", "keys_file"), "keys.yaml")
    before = path.read_bytes()
    refused = cli("experts", "remove", "morse", "--config", str(path))
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"error: {path}: http.keys_file: key 'billing' permits expert 'morse', which does not exist; "
        "revoke the "
        "key, correct its experts, or add the expert\n"
    )
    assert path.read_bytes() == before
    assert cli("apply", str(path)).exit_code == 0
    assert cli("keys", "revoke", "billing", "--file", str(path.parent / "keys.yaml")).exit_code == 0
    create_key(path.parent / "keys.yaml", "support", {"experts": ["roman"]})
    assert cli("experts", "remove", "morse", "--config", str(path)).exit_code == 0


def test_a_file_whose_keys_cannot_be_used_is_not_edited(cli: Any, config: ClusterConfig):
    path = config.source
    create_key(path.parent / "keys.yaml", "billing", {})
    set_value(path, ("http", "keys_file"), "keys.yaml")
    (path.parent / "keys.yaml").write_text("keys: {}\n", encoding="utf-8")
    before = path.read_bytes()
    refused = cli("scale", "roman", "--max", "2", "--config", str(path), "--no-apply")
    assert refused.exit_code == 1
    assert "keys: is empty, and without keys every client may send requests" in refused.stderr
    assert path.read_bytes() == before
