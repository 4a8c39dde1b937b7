"""The alerting rules for Prometheus."""

from __future__ import annotations

from typing import Any

from cluster.monitoring.outcomes import failed, false_triggers, handed_over

CLUSTER = "ray_io_cluster"  # absent on a single machine
ERROR_BUDGET = 0.01  # the share of answers that may fail
# Burn rates of the "SRE workbook": the long and the short window, and the multiple of the budget.
BURNS = (("1h", "5m", 14.4, "critical"), ("6h", "30m", 6.0, "warning"))
MIN_ANSWERS = 20  # in the long window, so that a single failure at night wakes nobody
MIN_DECISIONS = 100
MAX_JUMP = 0.15
MIN_FEEDBACK = 20
MAX_FALSE_TRIGGERS = 0.1


def rule_groups() -> list[dict[str, Any]]:
    """`groups` of a rule file, which is also `spec.groups` of a PrometheusRule."""
    return [
        {"name": "etr-models", "rules": [_model_down(), _nothing_exported(), _ejected_replicas(), _queue()]},
        {"name": "etr-decisions", "rules": [_handed_over(), _jump(), _false_triggers(), _lost_lines()]},
        {"name": "etr-errors", "rules": [_burn(*burn) for burn in BURNS]},
    ]


def _alert(name: str, expr: str, for_: str, severity: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": for_,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description},
    }


def _model_down() -> dict[str, Any]:
    return _alert(
        "EtrNoReplica",
        f"max by ({CLUSTER}, model) (ray_etr_model_up) == 0",
        "2m",
        "critical",
        "{{ $labels.model }} does not answer",
        "No router gets an answer from {{ $labels.model }}. `etr status` shows its last error and what it "
        "waits for. Without an expert, the meta answers; without the meta, requests fail.",
    )


def _nothing_exported() -> dict[str, Any]:
    return _alert(
        "EtrNoRouter",
        'absent(ray_etr_model_up{model="meta"})',
        "5m",
        "critical",
        "No router exports metrics",
        "The router does not run, or Prometheus does not reach the metrics ports of its nodes.",
    )


def _ejected_replicas() -> dict[str, Any]:
    return _alert(
        "EtrSuspectReplicas",
        f'max by ({CLUSTER}, model) (ray_etr_replicas{{state="ejected"}}) > 0',
        "5m",
        "warning",
        "{{ $value }} replicas of {{ $labels.model }} are ejected",
        "They stalled or failed, and have not answered a probe since. Their logs say why.",
    )


def _queue() -> dict[str, Any]:
    return _alert(
        "EtrQueueNearRefusal",
        f"max by ({CLUSTER}, queue) (ray_etr_queue_fill) > 0.8",
        "1m",
        "warning",
        "The queue of {{ $labels.queue }} is {{ $value | humanizePercentage }} full",
        "Requests are refused with 429 when it is full. Raise autoscaling.max_replicas, or "
        "routing.deadlines.queue_s if clients can wait.",
    )


def _handed_over() -> dict[str, Any]:
    return {"record": "etr:hand_over_ratio:rate1h", "expr": handed_over("1h", by=CLUSTER)}


def _jump() -> dict[str, Any]:
    usual = "avg_over_time(etr:hand_over_ratio:rate1h[1d] offset 1h)"
    return _alert(
        "EtrHandOverRateJumped",
        f"abs(etr:hand_over_ratio:rate1h - {usual}) > {MAX_JUMP}"
        f" and sum by ({CLUSTER}) (increase(ray_etr_decisions_total[1h])) > {MIN_DECISIONS}",
        "15m",
        "warning",
        "The share of hand-overs differs by {{ $value | humanizePercentage }} from that of the day before",
        "Clients ask something else, an expert is missing, or a new token or bias decides differently. The "
        "board of decisions shows by target and reason what has changed.",
    )


def _false_triggers() -> dict[str, Any]:
    return _alert(
        "EtrFalseTriggersUp",
        f"{false_triggers('6h', by=CLUSTER)} > {MAX_FALSE_TRIGGERS}"
        f" and sum by ({CLUSTER}) (increase(ray_etr_feedback_total[6h])) > {MIN_FEEDBACK}",
        "15m",
        "warning",
        "{{ $value | humanizePercentage }} of the feedback calls a hand-over false",
        "Lower routing.call_bias or the bias of the expert, or learn the token again with the feedback.",
    )


def _lost_lines() -> dict[str, Any]:
    return _alert(
        "EtrDecisionLogIncomplete",
        f"sum by ({CLUSTER}, reason) (increase(ray_etr_decision_log_dropped_total[15m])) > 0",
        "0m",
        "warning",
        "{{ $value }} lines of the decision log are lost: {{ $labels.reason }}",
        "The disk of a router is too slow, full or not writable.",
    )


def _burn(long: str, short: str, multiple: float, severity: str) -> dict[str, Any]:
    limit = round(multiple * ERROR_BUDGET, 6)
    return _alert(
        "EtrErrorBudgetBurn",
        f"{failed(long, by=CLUSTER)} > {limit}"
        f" and {failed(short, by=CLUSTER)} > {limit}"
        f" and sum by ({CLUSTER}) (increase(ray_etr_answers_total[{long}])) > {MIN_ANSWERS}",
        "2m",
        severity,
        "{{ $value | humanizePercentage }} of the answers fail",
        f"For {long}, answers have failed {multiple:g} times as often as the budget of "
        f"{ERROR_BUDGET:.0%} permits. The overview board shows their outcomes.",
    )
