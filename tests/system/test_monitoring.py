"""A real Prometheus scrapes a real cluster: every query of every board finds series."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.local.ports import free_ports
from cluster.monitoring.boards import BOARDS
from cluster.monitoring.files import local_files, write_files
from cluster.polling import until
from experts.learn import read_queries
from tests.support.prometheus import program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# What Grafana puts into a query.
VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$cluster": ".*", "$model": ".*", "$key": ".*"}
# What does not happen in this cluster: failures and thoughts. The alerts about them are provoked in
# tests/cluster/monitoring/test_rules.py.
NOT_PROVOKED = re.compile(r'phase="lost"|ray_etr_(hidden_tokens|decision_log_dropped|redecisions)_total')


@pytest.fixture
def prometheus(served: Any, tmp_path: Path) -> Iterator[httpx.Client]:
    """Scrapes the served cluster every second, with the settings of `etr render monitoring`."""
    write_files(tmp_path, local_files(tmp_path, served.head.metrics_targets))
    config = tmp_path / "prometheus.yml"
    settings = yaml.safe_load(config.read_text())
    settings["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config.write_text(yaml.safe_dump(settings))
    (port,) = free_ports(1)
    command = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
                yield client
        finally:
            process.terminate()


def test_every_query_of_every_board_returns_series(served: Any, watched: Any, prometheus: httpx.Client):
    questions = read_queries(served.world / "data" / "questions.jsonl")
    of_roman = next(query.question for query in questions if query.expert == "roman")
    missing = [query for query in queries() if not NOT_PROVOKED.search(query)]
    assert len(missing) > 40

    def none_is_missing() -> bool:
        use_the_cluster(watched.url, of_roman, "hello")
        missing[:] = [query for query in missing if not series(prometheus, query)]
        return not missing

    assert until(none_is_missing, 120.0, 2.0), missing


def test_the_cluster_raises_no_alert(served: Any, prometheus: httpx.Client):
    def rules() -> list[dict[str, Any]]:
        return [rule for group in data(prometheus, "/rules").get("groups", ()) for rule in group["rules"]]

    assert until(lambda: bool(series(prometheus, "ray_etr_model_up")), 60.0, 1.0)
    assert until(lambda: all(rule["health"] == "ok" for rule in rules()), 30.0, 1.0), rules()
    # The first evaluation came before the first scrape.
    assert until(lambda: all(rule.get("state", "inactive") == "inactive" for rule in rules()), 30.0, 1.0)


def use_the_cluster(url: str, *questions: str) -> None:
    """Questions with and without an expert, and feedback."""
    for question in questions:
        messages = [{"role": "user", "content": question}]
        body: dict[str, Any] = {"messages": messages, "temperature": 0, "max_tokens": 8}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).raise_for_status().json()
        httpx.post(f"{url}/v1/feedback", json={"id": answer["id"], "right_expert": None}, timeout=60)
        body["routing"] = {"exclude": ["roman"]}
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).raise_for_status()


def queries() -> Iterator[str]:
    for board in BOARDS.values():
        for panel in board.panels:
            for query in panel.queries.values():
                for name, value in VARIABLES.items():
                    query = query.replace(name, value)
                yield query


def series(prometheus: httpx.Client, query: str) -> list[Any]:
    return list(data(prometheus, "/query", query=query).get("result", ()))


def data(prometheus: httpx.Client, path: str, **params: str) -> dict[str, Any]:
    """Empty while Prometheus starts."""
    try:
        answer = prometheus.get(path, params=params)
    except httpx.ConnectError:
        return {}
    if answer.status_code == 503:
        return {}
    assert answer.json()["status"] == "success", answer.text
    return dict(answer.json()["data"])
