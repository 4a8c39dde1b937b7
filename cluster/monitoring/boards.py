"""The boards: the cluster, one model, the decisions of the meta, and the API keys."""

from __future__ import annotations

from cluster.monitoring.grafana import Board, Panel
from cluster.monitoring.outcomes import failed, handed_over

HERE = 'ray_io_cluster=~"$cluster"'
MODEL = f'{HERE}, model=~"$model"'
TARGET = f'{HERE}, target=~"$model"'
KEY = f'{HERE}, key=~"$key"'
HOP = 'phase="hop"'  # each call has this phase once
CLUSTER = {"cluster": "label_values(ray_etr_model_up, ray_io_cluster)"}
INTERVAL = "$__rate_interval"


def _rate(metric: str, labels: str = HERE, by: str = "") -> str:
    """Per second; the metric without the prefix that all of them have."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate(ray_etr_{metric}{{{labels}}}[{INTERVAL}]))"


def _quantile(percent: int, metric: str, labels: str = HERE, by: str = "") -> str:
    buckets = f"le, {by}" if by else "le"
    return f"histogram_quantile({percent / 100}, {_rate(f'{metric}_bucket', labels, buckets)})"


def _gauge(metric: str, labels: str, by: str, of_routers: str = "max") -> str:
    return f"{of_routers} by ({by}) (ray_etr_{metric}{{{labels}}})"


def _rates(title: str, metric: str, by: str, labels: str = HERE, unit: str = "short") -> Panel:
    return Panel(title, {f"{{{{{by}}}}}": _rate(metric, labels, by)}, unit)


def _quantiles(title: str, metric: str, unit: str, labels: str = HERE, *percents: int) -> Panel:
    return Panel(title, {f"p{p}": _quantile(p, metric, labels) for p in percents}, unit)


def _number(title: str, expr: str, unit: str = "short", legend: str = "") -> Panel:
    return Panel(title, {legend: expr}, unit, width=6, kind="stat")


def _by_key(title: str, metric: str) -> Panel:
    return Panel(title, {"{{key}}": f"topk(20, {_rate(metric, KEY, 'key')})"}, width=12)


def _in_range(title: str, metric: str) -> Panel:
    total = f"sum by (key) (increase(ray_etr_{metric}{{{KEY}}}[$__range]))"
    return Panel(title, {"{{key}}": f"topk(20, {total})"}, width=12, kind="stat")


_SHADOW_WINS = _rate("shadow_wins_total", by="shadow")
_SHADOW_DECISIONS = _rate("shadow_decisions_total", by="shadow")

OVERVIEW = Board(
    "etr-overview",
    "etr / Overview",
    (
        _number(
            "Models that do not answer",
            f"count({_gauge('model_up', HERE, 'model')} == 0) or vector(0)",
        ),
        _number("Answers per second", _rate("answers_total"), "reqps"),
        _number("Answers that fail", failed(INTERVAL, HERE), "percentunit"),
        _number("Hand-overs", handed_over(INTERVAL, HERE), "percentunit"),
        _rates("Answers, by outcome", "answers_total", "outcome", unit="reqps"),
        _quantiles("Time to the first text", "first_text_seconds", "s", HERE, 50, 95, 99),
        _quantiles("Time of an answer", "answer_seconds", "s", HERE, 50, 95, 99),
        _rates("Tokens written per second, by model", "completion_tokens_total", "model"),
        _rates("Calls per second, by model", "call_seconds_count", "model", f"{HERE}, {HOP}", "reqps"),
        Panel(
            "Where the time of calls goes",
            {"{{phase}}": _rate("call_seconds_sum", by="phase")},
            description="Seconds that all calls together spend in each phase, per second.",
        ),
        Panel("Waiting calls, by queue", {"{{queue}}": _gauge("waiting_calls", HERE, "queue", "sum")}),
        Panel(
            "How full the queues are",
            {"{{queue}}": _gauge("queue_fill", HERE, "queue")},
            "percentunit",
            description="At 100 %, further calls are refused.",
        ),
        Panel("Replicas", {"{{model}} {{state}}": _gauge("replicas", HERE, "model, state")}),
    ),
    CLUSTER,
)

MODEL_BOARD = Board(
    "etr-model",
    "etr / One model",
    (
        _number("Answers", _gauge("model_up", MODEL, "model"), "bool_yes_no", "{{model}}"),
        _number(
            "Healthy replicas",
            _gauge("replicas", f'{MODEL}, state="healthy"', "model"),
            legend="{{model}}",
        ),
        _number(
            "Ejected replicas",
            _gauge("replicas", f'{MODEL}, state="ejected"', "model"),
            legend="{{model}}",
        ),
        _number("Tokens written per second", _rate("completion_tokens_total", MODEL)),
        _rates("Calls per second", "call_seconds_count", "model", f"{MODEL}, {HOP}", "reqps"),
        Panel(
            "95 % of the calls are shorter, by phase",
            {"{{phase}}": _quantile(95, "call_seconds", MODEL, "phase")},
            "s",
        ),
        _rates("Where the time of calls goes", "call_seconds_sum", "phase", MODEL),
        Panel(
            "Tokens per second",
            {
                "prompt": _rate("prompt_tokens_total", MODEL),
                "written": _rate("completion_tokens_total", MODEL),
                "of those in thoughts": _rate("hidden_tokens_total", MODEL),
            },
        ),
        _rates("Hand-overs to it per second", "decisions_total", "target", TARGET),
        _quantiles(
            "Probability of its token at hand-overs", "decision_probability", "percentunit", TARGET, 10, 50
        ),
        _rates("Could not be chosen, by reason", "masked_total", "reason", f'{HERE}, expert=~"$model"'),
        _rates("Time lost in failed calls", "call_seconds_sum", "model", f'{MODEL}, phase="lost"'),
    ),
    CLUSTER | {"model": f"label_values(ray_etr_model_up{{{HERE}}}, model)"},
)

DECISIONS = Board(
    "etr-decisions",
    "etr / Decisions",
    (
        _rates("Decisions per second, by target", "decisions_total", "target"),
        Panel("Hand-overs", {"handed over": handed_over(INTERVAL, HERE)}, "percentunit"),
        _quantiles(
            "Probability of the chosen expert", "decision_probability", "percentunit", HERE, 10, 50, 90
        ),
        Panel(
            "Margin of the chosen expert",
            {f"p{p}, to the {{{{to}}}}": _quantile(p, "decision_margin", by="to") for p in (10, 50)},
            description="Difference of log-probabilities to the best word and to the next expert, in nats.",
        ),
        _rates("Experts that could not be chosen, by reason", "masked_total", "reason"),
        Panel(
            "Decided again, by expert and reason",
            {"{{expert}}: {{reason}}": _rate("redecisions_total", by="expert, reason")},
        ),
        _rates("Feedback, by verdict", "feedback_total", "verdict"),
        Panel(
            "Shadow experts: how often they would have taken over",
            {"{{shadow}}": f"({_SHADOW_WINS} or 0 * {_SHADOW_DECISIONS}) / {_SHADOW_DECISIONS}"},
            "percentunit",
        ),
        Panel(
            "Shadow experts: over whom",
            {"{{shadow}} over {{over}}": _rate("shadow_wins_total", by="shadow, over")},
        ),
        Panel(
            "Lines of the decision log per second",
            {
                "written": _rate("decision_log_lines_total"),
                "lost: {{reason}}": _rate("decision_log_dropped_total", by="reason"),
            },
        ),
    ),
    CLUSTER,
)

KEYS = Board(
    "etr-keys",
    "etr / API keys",
    (
        _in_range("Tokens written in this time", "completion_tokens_total"),
        _in_range("Prompt tokens in this time", "prompt_tokens_total"),
        _by_key("Tokens written per second, by key", "completion_tokens_total"),
        _by_key("Prompt tokens per second, by key", "prompt_tokens_total"),
        _by_key("Tokens of thoughts per second, by key", "hidden_tokens_total"),
        Panel(
            "Tokens written per second, by model",
            {"{{model}}": _rate("completion_tokens_total", KEY, "model")},
            width=12,
        ),
    ),
    CLUSTER | {"key": f"label_values(ray_etr_completion_tokens_total{{{HERE}}}, key)"},
)

# By the names of their files.
BOARDS = {"overview": OVERVIEW, "model": MODEL_BOARD, "decisions": DECISIONS, "keys": KEYS}
