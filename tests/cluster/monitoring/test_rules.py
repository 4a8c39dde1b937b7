"""Every alert fires when it should, and is silent when it should be, as Prometheus itself evaluates it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.outcomes import NOT_FAILED
from cluster.monitoring.rules import rule_groups
from router.errors import ModelFailed, ModelUnavailable, Overloaded
from tests.support.prometheus import program


@dataclass(frozen=True)
class Case:
    """`fires` and `silent` are values of series, as promtool writes them; `at` is when both are looked at."""

    alert: str
    at: str
    fires: dict[str, str]
    silent: dict[str, str]
    interval: str = "1m"
    severity: str = ""


def answers(stop: str, failed: str) -> dict[str, str]:
    return {
        'ray_etr_answers_total{outcome="stop"}': stop,
        'ray_etr_answers_total{outcome="model_unavailable"}': failed,
        'ray_etr_answers_total{outcome="cancelled"}': "0+5x600",
    }


def decisions(roman: str, meta: str) -> dict[str, str]:
    return {'ray_etr_decisions_total{target="roman"}': roman, 'ray_etr_decisions_total{target="meta"}': meta}


def feedback(false: str, right: str) -> dict[str, str]:
    return {
        'ray_etr_feedback_total{verdict="false_trigger"}': false,
        'ray_etr_feedback_total{verdict="right"}': right,
    }


UP = 'ray_etr_model_up{model="roman", replica="a"}'
UP_ELSEWHERE = 'ray_etr_model_up{model="roman", replica="b"}'
EJECTED = 'ray_etr_replicas{model="roman", state="ejected"}'
FILL = 'ray_etr_queue_fill{queue="meta"}'
CASES = (
    Case("EtrNoReplica", "5m", {UP: "1 0x10", UP_ELSEWHERE: "0x10"}, {UP: "0x10", UP_ELSEWHERE: "1x10"}),
    Case("EtrNoReplica", "5m", {UP: "0x10"}, {UP: "1 1 0 1x7"}),  # away for a minute
    Case("EtrNoRouter", "8m", {UP: "1x10"}, {'ray_etr_model_up{model="meta"}': "0x10"}),
    Case("EtrSuspectReplicas", "8m", {EJECTED: "1x10"}, {EJECTED: "1 1 0x8"}),
    Case("EtrQueueNearRefusal", "4m", {FILL: "0.9x10"}, {FILL: "0.7x10"}),
    Case(  # from 10 % of the answers to 50 %, and the same when almost nothing is asked
        "EtrHandOverRateJumped",
        "26h",
        decisions("0+10x290 2900+50x30", "0+90x290 26100+50x30"),
        decisions("0+0.1x290 29+0.5x30", "0+0.9x290 261+0.5x30"),
        interval="5m",
    ),
    Case(
        "EtrHandOverRateJumped",
        "26h",
        decisions("0+50x290 14500+0x30", "0+50x290 14500+100x30"),
        decisions("0+50x320", "0+45x290 13050+60x30"),
        interval="5m",
    ),
    Case("EtrFalseTriggersUp", "7h", feedback("0+1x500", "0+5x500"), feedback("0+1x500", "0+15x500")),
    Case("EtrFalseTriggersUp", "7h", feedback("0+1x500", "0+0x500"), feedback("0+0.01x500", "0+0x500")),
    Case(
        "EtrDecisionLogIncomplete",
        "10m",
        {'ray_etr_decision_log_dropped_total{reason="queue_full"}': "0 0 0 5x20"},
        {'ray_etr_decision_log_dropped_total{reason="queue_full"}': "5x20"},
    ),
    Case(
        "EtrErrorBudgetBurn",
        "2h",
        answers("0+80x300", "0+20x300"),
        # It failed as often for an hour, and does no more.
        answers("0+80x300", "0+20x110 2200+0x100"),
        severity="critical",
    ),
    Case(
        "EtrErrorBudgetBurn",
        "8h",
        answers("0+92x600", "0+8x600"),
        answers("0+98x600", "0+2x600"),
        severity="warning",
    ),
    Case(  # nothing else is asked, and too little is
        "EtrErrorBudgetBurn",
        "2h",
        {'ray_etr_answers_total{outcome="overloaded"}': "0+1x300"},
        {'ray_etr_answers_total{outcome="overloaded"}': "0+0.1x300"},
        severity="critical",
    ),
)


@pytest.fixture
def rule_file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": rule_groups()}))
    return path


def test_promtool_accepts_the_rules(rule_file: Path):
    done = promtool("check", "rules", str(rule_file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("evaluation", ["1m", "5m"])
def test_every_alert_fires_if_it_should_and_only_then(rule_file: Path, evaluation: str):
    """Cases of hours are evaluated less often, which takes a fraction of the time."""
    cases = [case for case in CASES if case.at.endswith("h") == (evaluation == "5m")]
    tests = [test for case in cases for test in (_test(case, case.fires, 1), _test(case, case.silent, 0))]
    path = rule_file.with_name("tests.yml")
    path.write_text(
        yaml.safe_dump({"rule_files": [rule_file.name], "evaluation_interval": evaluation, "tests": tests})
    )
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case():
    alerts = {(rule["alert"], rule["labels"]["severity"]) for rule in _rules() if "alert" in rule}
    cases = {(case.alert, case.severity) for case in CASES}
    assert {
        (name, severity) if (name, severity) in cases else (name, "") for name, severity in alerts
    } == cases


def test_refusals_are_failures_and_mistakes_of_clients_are_not():
    assert {"stop", "cancelled", "invalid_request_error", "rate_limit_exceeded"} <= {*NOT_FAILED}
    assert not {Overloaded.code, ModelUnavailable.code, ModelFailed.type} & {*NOT_FAILED}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60)


def _rules() -> Iterator[dict[str, Any]]:
    return (rule for group in rule_groups() for rule in group["rules"])


def _test(case: Case, series: dict[str, str], num_firing: int) -> dict[str, Any]:
    severity = f', severity="{case.severity}"' if case.severity else ""
    firing = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"{severity}}})'
    return {
        "name": f"{case.alert} {case.severity} {'fires' if num_firing else 'is silent'}: {series}",
        "interval": case.interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": case.at,
                "exp_samples": [{"labels": "{}", "value": num_firing}] if num_firing else [],
            }
        ],
    }
