"""Shares of answers and decisions, as PromQL: boards and rules use the same."""

from __future__ import annotations

from collections.abc import Iterator

from router.errors import RequestError, RouterError
from router.model_port import Finish


def _codes(error: type[RouterError]) -> Iterator[str]:
    yield error.code or error.type
    for below in error.__subclasses__():
        yield from _codes(below)


# An answer did not fail if it has a finish reason, its client left, or the client made a mistake.
NOT_FAILED = (Finish.STOP.value, Finish.LENGTH.value, "cancelled", *sorted(set(_codes(RequestError))))


def failed(window: str, labels: str = "", by: str = "") -> str:
    """The share of answers that failed, a refusal included. No series while nothing is asked."""
    wrong = f'outcome!~"{"|".join(NOT_FAILED)}"'
    return _share("ray_etr_answers_total", wrong, window, labels, by)


def handed_over(window: str, labels: str = "", by: str = "") -> str:
    """The share of decisions in which an expert took over. No series while nothing is decided."""
    return _share("ray_etr_decisions_total", 'target!="meta"', window, labels, by)


def false_triggers(window: str, labels: str = "", by: str = "") -> str:
    """The share of feedback that calls a hand-over false. No series without feedback."""
    return _share("ray_etr_feedback_total", 'verdict="false_trigger"', window, labels, by)


def _share(metric: str, part: str, window: str, labels: str, by: str) -> str:
    """0 if there is no series of the part yet."""
    grouped = f"sum by ({by})" if by else "sum"
    chosen = f"{labels}, {part}" if labels else part
    whole = f"{grouped} (rate({metric}{{{labels}}}[{window}]))"
    return f"({grouped} (rate({metric}{{{chosen}}}[{window}])) or 0 * {whole}) / ({whole} > 0)"
