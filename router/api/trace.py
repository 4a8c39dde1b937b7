"""The trace of one choice: which model wrote which part, what the meta chose from, where the time went."""

from __future__ import annotations

import math
from typing import Any

from router.decoding.decisions import Decision
from router.decoding.generation import Done
from router.decoding.timing import Timing
from router.decoding.transcript import Span
from router.routing_report import Candidates


def trace(done: Done) -> dict[str, Any]:
    return {
        "spans": _spans(done.spans),
        **({"drafts": [_spans(draft) for draft in done.drafts]} if done.drafts else {}),
        "decisions": [
            _decision(decision, decision.candidates) for decision in done.decisions if decision.candidates
        ],
        "timing": _timing(done.timing),
    }


def _spans(spans: list[Span]) -> list[dict[str, Any]]:
    return [
        {
            "model": span.model,
            "text": span.text,
            "num_tokens": span.num_tokens,
            "probability": span.probability,
        }
        for span in spans
    ]


def _decision(decision: Decision, candidates: Candidates) -> dict[str, Any]:
    return {
        "expert": decision.winner,
        "experts": [{"name": name, "probability": math.exp(logprob)} for name, logprob in candidates.experts],
        "best_word_probability": math.exp(candidates.word),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    calls = [
        {"model": call.model, **{f"{phase}_ms": _ms(time_s) for phase, time_s in call.phases()}}
        for call in timing.calls
    ]
    first_text_ms = None if timing.first_text_s is None else _ms(timing.first_text_s)
    return {"first_text_ms": first_text_ms, "total_ms": _ms(timing.total_s), "calls": calls}


def _ms(time_s: float) -> float:
    return round(1000 * time_s, 3)
