"""The metrics of decisions, tokens and feedback: their names and tags, and how many series they may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

# Of one metric in one router replica. A cluster may have thousands of experts and keys, and every series
# costs memory in the router, in Ray and in Prometheus.
MAX_SERIES = 1000
OTHER = "other"  # stands for the values of series that would be too many
ALL_EXPERTS = "*"  # the value of `expert` where experts are only counted

PROBABILITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
MARGINS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # in nats


@dataclass(frozen=True, slots=True)
class Metric:
    """A histogram if it has `boundaries`, else a counter. `tags` may have any number of values, `fixed_tags`
    only a few."""

    name: str
    description: str
    tags: tuple[str, ...] = ()
    fixed_tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def tag_keys(self) -> tuple[str, ...]:
        return self.tags + self.fixed_tags


ANSWERS = Metric("etr_answers", "Answers that have ended.", fixed_tags=("outcome",))
DECISIONS = Metric("etr_decisions", "Decisions of the meta.", ("target",))
PROBABILITY = Metric(
    "etr_decision_probability",
    "Probability of the expert's token at a hand-over.",
    ("target",),
    boundaries=PROBABILITIES,
)
MARGIN = Metric(
    "etr_decision_margin",
    "By how much the winner's log-probability exceeds that of the best word, or of the next expert.",
    ("target",),
    ("to",),
    boundaries=MARGINS,
)
MASKED = Metric("etr_masked", "Experts that a decision could not choose.", ("expert",), ("reason",))
REDECISIONS = Metric(
    "etr_redecisions", "Decisions taken again without the expert that had won.", ("expert",), ("reason",)
)
FEEDBACK = Metric("etr_feedback", "Feedback of clients on decisions.", ("target",), ("verdict",))
PROMPT_TOKENS = Metric("etr_prompt_tokens", "Prompt tokens of all calls.", ("model", "key"))
COMPLETION_TOKENS = Metric("etr_completion_tokens", "Tokens that models wrote.", ("model", "key"))
HIDDEN_TOKENS = Metric("etr_hidden_tokens", "Tokens of thoughts, among those written.", ("model", "key"))
SHADOW_DECISIONS = Metric("etr_shadow_decisions", "Answers in which a shadow was scored.", ("shadow",))
SHADOW_WINS = Metric(
    "etr_shadow_wins", "Answers in which a shadow would have taken over.", ("shadow", "over")
)
SHADOW_PROBABILITY = Metric(
    "etr_shadow_probability",
    "Probability of a shadow where it would have taken over.",
    ("shadow",),
    boundaries=PROBABILITIES,
)
LOG_LINES = Metric("etr_decision_log_lines", "Lines written to the decision log.")
LOG_DROPPED = Metric(
    "etr_decision_log_dropped", "Lines of the decision log that were lost.", fixed_tags=("reason",)
)

METRICS = (
    ANSWERS,
    DECISIONS,
    PROBABILITY,
    MARGIN,
    MASKED,
    REDECISIONS,
    FEEDBACK,
    PROMPT_TOKENS,
    COMPLETION_TOKENS,
    HIDDEN_TOKENS,
    SHADOW_DECISIONS,
    SHADOW_WINS,
    SHADOW_PROBABILITY,
    LOG_LINES,
    LOG_DROPPED,
)


class Metrics(Protocol):
    """Where values go. May be called from any thread."""

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Count `value` more, or observe it if the metric is a histogram. `tags` has all of its keys."""
        ...


class NoMetrics:
    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        pass


class BoundedMetrics:
    """Passes values on, with `OTHER` in place of the tags of a series beyond the first `max_series`."""

    def __init__(self, metrics: Metrics, max_series: int = MAX_SERIES) -> None:
        self._metrics = metrics
        self._max_series = max_series
        self._series: dict[str, set[tuple[str, ...]]] = {metric.name: set() for metric in METRICS}

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        if metric.tags and not self._has_room(metric, tags):
            tags = {**tags, **dict.fromkeys(metric.tags, OTHER)}
        self._metrics.add(metric, value, tags)

    def _has_room(self, metric: Metric, tags: Mapping[str, str]) -> bool:
        known, values = self._series[metric.name], tuple(tags.values())
        if values in known:
            return True
        if len(known) >= self._max_series:
            return False
        known.add(values)
        return True
