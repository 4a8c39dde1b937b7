"""The lines of the decision log: plain data, without text unless the operator wants it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from typing import Any

from router.decisions.prompt_digest import prompt_digest
from router.decoding.decisions import Decision
from router.decoding.generation import GenerationRequest, GenerationState
from router.prompt import Prompt
from router.routing_report import Candidates
from router.table import META

MAX_NAMES = 32  # a longer allowed set is written as its size and digest
Line = dict[str, Any]


def decision_lines(
    generation: GenerationRequest,
    state: GenerationState,
    num_beyond_key: int,
    ended_at: str,
    *,
    with_text: bool,
) -> Iterator[Line]:
    """One line for each decision of an answer.

    `num_beyond_key`: experts that the API key cannot reach. `ended_at`: a `timestamp`.
    """
    answer_id, _, choice = generation.request_id.rpartition("-")
    whole = {
        "kind": "decision",
        "time": ended_at,
        "id": answer_id,
        "choice": int(choice) if choice.isdecimal() else 0,
        "key": key_label(state.admission.key),
        "prompt": prompt_digest(generation.prompt),
        **(_text(generation.prompt) if with_text else {}),
    }
    end = {
        "author": state.writer,
        "shadows": _shadow_wins(state),
        "scored_shadows": list(state.trail.shadows),
        "outcome": outcome(state),
        "num_tokens": state.num_tokens,
        "timing": _timing(state),
    }
    for decision in state.trail.decisions:
        yield {**whole, **_decision(decision, num_beyond_key), **end}
        end = {**end, "shadows": [], "scored_shadows": []}  # they are of the answer, not of each decision


def feedback_line(
    answer_id: str, key: str, right_expert: str | None, target: str | None, *, is_known: bool
) -> Line:
    """`target` is the expert that the answer was handed over to, if the router knows the answer."""
    line = {
        "kind": "feedback",
        "time": timestamp(),
        "id": answer_id,
        "key": key_label(key),
        "right_expert": right_expert,
    }
    return {**line, "target": target} if is_known else line


def outcome(state: GenerationState) -> str:
    """A finish reason, the code of an error, or `cancelled` if the client left."""
    if state.finish is not None:
        return state.finish.value
    calls = state.timing.calls
    return (calls[-1].error if calls else None) or "cancelled"


def margins(decision: Decision) -> tuple[float | None, float | None]:
    """By how much the winner's log-probability exceeds the best word's, and the next expert's."""
    found = decision.candidates
    if found is None or decision.winner is None or not found.experts:
        return None, None
    best = found.experts[0][1]
    return best - found.word, best - found.experts[1][1] if len(found.experts) > 1 else None


def key_label(key: str) -> str:
    """Stands for an API key by its name."""
    return sha256(key.encode()).hexdigest()[:8] if key else "none"


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shadow_wins(state: GenerationState) -> list[Line]:
    return [
        {
            "expert": win.shadow,
            "probability": win.probability,
            "over": win.over or META,
            "position": win.position,
        }
        for win in state.trail.shadow_wins.values()
    ]


def _decision(decision: Decision, num_beyond_key: int) -> Line:
    masked = Counter(decision.masked.values())
    if num_beyond_key:
        masked["key"] = num_beyond_key
    to_word, to_expert = margins(decision)
    return {
        "position": decision.position,
        "allowed": _names(decision.allowed),
        "masked": dict(masked),
        **_candidates(decision.candidates),
        "winner": decision.winner,
        "probability": decision.probability,
        "margin": {"word": to_word, "expert": to_expert},
        "redecided": decision.redecided,
    }


def _candidates(found: Candidates | None) -> Line:
    if found is None:
        return {"top": [], "word_probability": None}
    top = [{"expert": name, "probability": math.exp(logprob)} for name, logprob in found.experts]
    return {"top": top, "word_probability": math.exp(found.word)}


def _names(names: tuple[str, ...]) -> list[str] | Line:
    if len(names) <= MAX_NAMES:
        return list(names)
    digest = blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
    return {"num": len(names), "digest": digest}


def _text(prompt: Prompt) -> Line:
    if prompt.messages is None:
        return {} if prompt.text is None else {"text": prompt.text}
    return {"messages": [{"role": each.role, "content": each.content} for each in prompt.messages]}


def _timing(state: GenerationState) -> Line:
    first_s, calls = state.timing.first_text_s, state.timing.calls
    return {
        "queue_ms": _ms(calls[0].queue_s) if calls else 0.0,
        "first_text_ms": None if first_s is None else _ms(first_s),
        "total_ms": _ms(state.timing.total_s),
    }


def _ms(time_s: float) -> float:
    return round(1000 * time_s, 3)
