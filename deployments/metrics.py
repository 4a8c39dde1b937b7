"""Where answers spend their time, as Ray metrics. Prometheus scrapes them from every node's metrics port."""

from __future__ import annotations

from ray.serve.metrics import Histogram

from router.decoding.timing import Timing

# From a message between two processes to the longest answer that the deadlines permit.
BOUNDARIES_S = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 180, 600]
RARE_PHASES = ("decision", "lost")  # observed only when they take time


class ServeMeter:
    """A `Meter`. Serve tags every value with the router replica that it comes from."""

    def __init__(self) -> None:
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
            for phase, time_s in call.phases():
                if time_s or phase not in RARE_PHASES:
                    self._phases.observe(time_s, {"phase": phase, "model": call.model})
        if timing.first_text_s is not None:
            self._first_texts.observe(timing.first_text_s)
        self._answers.observe(timing.total_s)
