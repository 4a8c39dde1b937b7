"""The files of boards and rules are what Prometheus, Grafana and Kubernetes read, and are up to date."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from cluster.monitoring.boards import BOARDS
from cluster.monitoring.files import PROVISIONING, kubernetes_files
from cluster.monitoring.grafana import board_json
from cluster.monitoring.rules import rule_groups
from deployments.replicas import state_metrics
from router.decisions.metrics import METRICS
from tests.support.k8s_world import K8S
from tests.support.prometheus import program

MONITORING = K8S / "monitoring"


def test_the_files_in_k8s_are_up_to_date():
    """Otherwise run `python -m cluster.monitoring.files k8s/monitoring`."""
    expected = {str(path): text for path, text in kubernetes_files().items()}
    found = {
        str(path.relative_to(MONITORING)): path.read_text()
        for path in MONITORING.rglob("*.*")
        if path.name != "kustomization.yaml"
    }
    assert found == expected


def test_kubernetes_gets_every_board_and_rule():
    if shutil.which("kubectl") is None:
        pytest.skip("NOT CHECKED by kustomize: there is no kubectl here")
    command = ["kubectl", "kustomize", str(MONITORING)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    objects = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert objects.keys() == {"ConfigMap", "PrometheusRule"}
    boards = objects["ConfigMap"]
    kubernetes_validate.validate(boards, "1.34", strict=True)
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert boards["data"].keys() == {f"{name}.json" for name in BOARDS}
    assert objects["PrometheusRule"]["spec"] == {"groups": rule_groups()}


def test_boards_and_rules_ask_only_for_metrics_that_routers_export():
    """Ray puts `ray_` in front, and Prometheus' formats say more at the end."""
    times = {"etr_call_seconds", "etr_first_text_seconds", "etr_answer_seconds"}
    exported = times | {metric.name for metric in METRICS} | state_metrics.METRICS.keys()
    text = "".join(kubernetes_files().values())
    asked = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in re.findall(r"\bray_(etr_\w+)", text)}
    assert asked <= exported
    assert exported - asked == {"etr_shadow_probability"}


@pytest.mark.parametrize("name", BOARDS)
def test_the_panels_of_a_board_lie_side_by_side(name: str):
    panels = board_json(BOARDS[name])["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [_cells(panel["gridPos"]) for panel in panels]
    assert all(x < 24 for one in cells for x, _ in one)
    assert not any(one & other for one, other in combinations(cells, 2))


def test_etr_render_monitoring_writes_what_prometheus_and_grafana_read(
    cli: Any, keep_head: Callable[[str], None], tmp_path: Path
):
    keep_head("generalist")
    done = cli("render", "monitoring", str(tmp_path / "monitoring"))
    assert done.exit_code == 0, done.output
    config = tmp_path / "monitoring" / "prometheus.yml"
    assert f"prometheus --config.file={config} " in done.stdout
    provisioning = tmp_path / "monitoring" / PROVISIONING
    assert f"GF_PATHS_PROVISIONING={provisioning} " in done.stdout
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "etr.yaml").read_text())["providers"]
    boards = Path(provider["options"]["path"])
    assert {json.loads(path.read_text())["uid"] for path in boards.iterdir()} == {
        board.uid for board in BOARDS.values()
    }
    command = [program("promtool"), "check", "config", str(config)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "rules found" in checked.stdout


def test_etr_render_monitoring_needs_a_cluster_on_this_machine(cli: Any, tmp_path: Path):
    done = cli("render", "monitoring", str(tmp_path / "monitoring"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no head that etr started runs here" in done.stderr


def _cells(place: dict[str, int]) -> set[tuple[int, int]]:
    return {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
