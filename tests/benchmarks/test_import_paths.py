"""Serve imports the benchmarks' applications by name, in other processes; the names must exist."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.handoff import __main__ as handoff
from benchmarks.many_experts.world import INSTANT
from benchmarks.relay.deploy import deploy_config


def import_paths(apps: Iterable[Mapping[str, Any]]) -> list[str]:
    return [app["import_path"] for app in apps]


@pytest.fixture
def relay_deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return deploy_config(tmp_path, step_s=0.0, span_url="http://127.0.0.1:4318/v1/traces")


def assert_importable(paths: Iterable[str]) -> None:
    for path in paths:
        module, _, builder = path.partition(":")
        assert callable(getattr(importlib.import_module(module), builder)), path


def test_applications_of_the_relay_benchmark_exist(relay_deploy: dict[str, Any]):
    assert_importable(import_paths([*relay_deploy["applications"], INSTANT]))


def test_stamped_applications_of_the_handoff_benchmark_exist(relay_deploy: dict[str, Any], tmp_path: Path):
    apps = [app for app in relay_deploy["applications"] if app["name"] == "router"]
    builders = ["deployments.apps:build_model", *import_paths(apps)]
    deploy = {"applications": [{"import_path": path, "args": {}} for path in builders]}
    stamped = import_paths(handoff.stamped(deploy, tmp_path)["applications"])
    assert_importable(stamped)
    assert set(stamped).isdisjoint(builders)
