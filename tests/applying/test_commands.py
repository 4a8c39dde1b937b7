"""The commands that read and change a running cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import ClusterConfig, load_config
from cluster.serve_client import ServeClient
from tests.fake_serve import FakeServe


def test_etr_apply_and_status(cli: Any, config: ClusterConfig, client: ServeClient):
    applied = cli("apply", str(config.source), "--address", client.address)
    assert applied.exit_code == 0, applied.output
    assert f"http://127.0.0.1:{config.http.port}/v1" in applied.stdout
    assert "expert-roman" in applied.stderr
    shown = json.loads(cli("status", "--json", "--address", client.address).stdout)
    assert {one["name"]: one["state"] for one in shown["models"]}["meta"] == "ready"
    assert "morse" in cli("status", "--address", client.address).stdout


def test_etr_ask_streams_the_answer_and_then_who_wrote_it(cli: Any, client: ServeClient):
    plain = cli("ask", "14?", "--url", client.address)
    assert (plain.exit_code, plain.stdout) == (0, "Hello! XIV\n")
    traced = cli("ask", "14?", "--url", client.address, "--trace")
    assert [line.split() for line in traced.stdout.splitlines()] == [
        ["Hello!", "XIV"],
        [],
        ["meta", "Hello!"],
        ["roman", "XIV"],
    ]


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


def test_etr_down_of_a_name_never_started_makes_nothing(cli: Any, tmp_path: Path):
    assert "was not started here" in cli("down", "--name", "typo").stdout
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("ask", "hi", "--url", "URL", "--model", "nobody"), "answers 404: model 'nobody' does not exist"),
        (("ask", "broken", "--url", "URL"), "the answer broke off without an end"),
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
    given = [{"URL": client.address, "CONFIG": str(config.source)}.get(one, one) for one in arguments]
    result = cli(*given)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_wrong_command_line_is_usage(cli: Any):
    assert cli("upp").exit_code == 2
    assert cli("learn").exit_code == 2


def test_etr_plan_says_what_apply_would_do_and_touches_nothing(
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
    told = json.loads(cli("plan", path, "--address", client.address, "--json").stdout)
    assert {one["app"]: one["change"] for one in told} == {
        "expert-morse": "keep",
        "expert-roman": "update",
        "meta": "keep",
        "router": "keep",
    }
    assert serve.num_puts == 1


def test_etr_scale_writes_the_file_and_changes_that_model_alone(
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
    assert serve.epoch("router") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("scale", "nobody", "--max", "2"), "there is no 'nobody'; use one of: meta, router, roman, morse"),
        (("scale", "roman"), "give --min, --max or both"),
        (("scale", "roman", "--min", "3"), "min_replicas 3 is above max_replicas 1"),
        (("scale", "meta", "--min", "0"), "min_replicas 0 would leave nobody to answer"),
        (("experts", "remove", "nobody"), "experts.nobody: there is no such expert; experts: roman, morse"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_nothing_is_written(
    cli: Any, config: ClusterConfig, serve: FakeServe, arguments: tuple[str, ...], complaint: str
):
    before = config.source.read_bytes()
    refused = cli(*arguments, "--config", str(config.source))
    assert refused.exit_code in (1, 2)
    assert complaint in " ".join(refused.stderr.replace("│", " ").split())
    assert config.source.read_bytes() == before
    assert serve.num_puts == 0


def test_etr_experts_remove_takes_it_out_of_the_file_and_the_cluster(
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


def test_without_a_cluster_here_a_change_is_one_of_the_file(
    cli: Any, config: ClusterConfig, serve: FakeServe
):
    removed = cli("experts", "remove", "morse", "--config", str(config.source))
    assert removed.exit_code == 0, removed.output
    assert f"serve it with: etr apply {config.source}" in removed.stdout
    assert serve.num_puts == 0


def test_no_apply_leaves_a_running_cluster_as_it_is(
    cli: Any, config: ClusterConfig, serve: FakeServe, keep_head: Callable[[str], None]
):
    keep_head(config.name)
    path = str(config.source)
    cli("apply", path)
    assert cli("scale", "meta", "--max", "2", "--config", path, "--no-apply").exit_code == 0
    assert load_config(path).meta.autoscaling.max_replicas == 2
    assert serve.num_puts == 1
