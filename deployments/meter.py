"""Where answers spend their time, as Ray's metrics: Prometheus finds them on every node's metrics port."""

from __future__ import annotations

from ray.serve.metrics import Histogram

from router.timing import Timing

# From a message between processes to an answer as long as the deadlines let it be.
BOUNDS_S = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 180, 600]
SELDOM = ("decision", "lost")


class ServedMeter:
    """Serve adds to every figure which replica of the router it is from."""

    def __init__(self) -> None:
        self._phases = Histogram(
            "etr_call_seconds",
            "What a call of a model spends its time on.",
            boundaries=BOUNDS_S,
            tag_keys=("phase", "model"),  # type: ignore[arg-type]  # Serve annotates a single one
        )
        self._first_texts = Histogram(
            "etr_first_text_seconds", "Until an answer has text to show.", boundaries=BOUNDS_S
        )
        self._answers = Histogram("etr_answer_seconds", "Until an answer is over.", boundaries=BOUNDS_S)

    def ended(self, timing: Timing) -> None:
        for call in timing.calls:
            for phase, time_s in call.phases():
                if time_s or phase not in SELDOM:
                    self._phases.observe(time_s, {"phase": phase, "model": call.model})
        if timing.first_text_s is not None:
            self._first_texts.observe(timing.first_text_s)
        self._answers.observe(timing.total_s)
