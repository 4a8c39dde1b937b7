"""What routers measure, as Ray metrics. Prometheus scrapes them from every node's metrics port."""

from __future__ import annotations

from collections.abc import Mapping

from ray.serve.metrics import Counter, Histogram

from router.decisions.metrics import METRICS, OTHER, Metric
from router.decoding.timing import Timing

# From a message between two processes to the longest answer that the deadlines permit.
BOUNDARIES_S = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 180, 600]
RARE_PHASES = ("decision", "lost")  # observed only when they take time
MAX_MODELS = 100  # with times of their own; each has a series for every phase and boundary


class ServeMeter:
    """A `Meter`. Serve tags every value with the router replica that it comes from."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._phases = Histogram(
            "etr_call_seconds",
            "Time that a call of a model spends in each phase.",
            boundaries=BOUNDARIES_S,
            tag_keys=("phase", "model"),  # type: ignore[arg-type]  # Serve annotates a single one
        )
        self._first_texts = Histogram(
            "etr_first_text_seconds", "Time until the first text of an answer.", boundaries=BOUNDARIES_S
        )
        self._answers = Histogram(
            "etr_answer_seconds", "Time until the end of an answer.", boundaries=BOUNDARIES_S
        )

    def ended(self, timing: Timing) -> None:
        for call in timing.calls:
            model = self._label(call.model)
            for phase, time_s in call.phases():
                if time_s or phase not in RARE_PHASES:
                    self._phases.observe(time_s, {"phase": phase, "model": model})
        if timing.first_text_s is not None:
            self._first_texts.observe(timing.first_text_s)
        self._answers.observe(timing.total_s)

    def _label(self, model: str) -> str:
        if model not in self._models and len(self._models) >= MAX_MODELS:
            return OTHER
        self._models.add(model)
        return model


class ServeMetrics:
    """The `Metrics` of decisions, tokens and feedback."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            if metric.boundaries:
                self._histograms[metric.name] = Histogram(
                    metric.name,
                    metric.description,
                    boundaries=list(metric.boundaries),
                    tag_keys=metric.tag_keys,  # type: ignore[arg-type]  # as above
                )
            else:
                self._counters[metric.name] = Counter(
                    metric.name,
                    metric.description,
                    tag_keys=metric.tag_keys,  # type: ignore[arg-type]
                )

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        if metric.boundaries:
            self._histograms[metric.name].observe(value, dict(tags))
        else:
            self._counters[metric.name].inc(value, dict(tags))
