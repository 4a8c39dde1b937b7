"""Writes boards and rules as files: for Kubernetes, and for Prometheus and Grafana on one machine.

`python -m cluster.monitoring.files k8s/monitoring` writes those of this repository.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.monitoring.boards import BOARDS
from cluster.monitoring.grafana import board_json
from cluster.monitoring.rules import rule_groups

SCRAPE_INTERVAL = "10s"  # as often as Ray exports
PROVISIONING = Path("grafana", "provisioning")


def kubernetes_files() -> dict[Path, str]:
    """By path: the boards, and a PrometheusRule for the Prometheus operator."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "etr", "labels": {"app.kubernetes.io/managed-by": "etr"}},
        "spec": {"groups": rule_groups()},
    }
    return {**_boards(Path("boards")), Path("rules.yaml"): _yaml(rule)}


def local_files(folder: Path, targets: Path) -> dict[Path, str]:
    """By path below `folder`, which is absolute: what Prometheus and Grafana on this machine read.

    `targets` is the file in which Ray lists the metrics ports of its nodes.
    """
    boards = folder / "grafana" / "boards"
    prometheus = {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [{"job_name": "etr", "file_sd_configs": [{"files": [str(targets)]}]}],
    }
    source = {"name": "Prometheus", "type": "prometheus", "url": "http://127.0.0.1:9090", "isDefault": True}
    provider = {"name": "etr", "type": "file", "options": {"path": str(boards)}}
    return {
        Path("prometheus.yml"): _yaml(prometheus),
        Path("rules.yml"): _yaml({"groups": rule_groups()}),
        PROVISIONING / "datasources" / "etr.yaml": _yaml({"apiVersion": 1, "datasources": [source]}),
        PROVISIONING / "dashboards" / "etr.yaml": _yaml({"apiVersion": 1, "providers": [provider]}),
        **_boards(boards.relative_to(folder)),
    }


def write_files(folder: Path, files: Mapping[Path, str]) -> None:
    """Raises OSError."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def _boards(folder: Path) -> dict[Path, str]:
    return {
        folder / f"{name}.json": json.dumps(board_json(board), indent=1) + "\n"
        for name, board in BOARDS.items()
    }


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120)


if __name__ == "__main__":
    write_files(Path(sys.argv[1]), kubernetes_files())
