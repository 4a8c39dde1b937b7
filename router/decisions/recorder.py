"""Counts decisions and tokens, logs decisions, and takes what clients say of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from typing import Protocol

from router.decisions import metrics as m
from router.decisions.log_lines import (
    Line,
    decision_lines,
    feedback_line,
    key_label,
    margins,
    outcome,
    timestamp,
)
from router.decisions.recent_answers import MAX_ANSWERS, ROUTER_DIGITS, RecentAnswer, RecentAnswers
from router.decisions.turn_authors import TurnAuthors
from router.decoding.decisions import Decision
from router.decoding.generation import GenerationRequest, GenerationState
from router.errors import UnknownAnswer
from router.table import META, RouteTable

ANSWER_ID = re.compile("(?:chatcmpl|cmpl|resp|msg)-([0-9a-f]{32})")
# Reasons that are the same at every decision of a request, and may concern every expert.
_COUNTED_TOGETHER = ("excluded", "modality", "limit")


class Verdict(StrEnum):
    """What a client says of a decision."""

    RIGHT = "right"
    FALSE_TRIGGER = "false_trigger"  # an expert took over, and none should have
    MISSED = "missed"  # the meta answered, and an expert should have
    WRONG_EXPERT = "wrong_expert"
    UNKNOWN = "unknown"  # another router answered, which knows the decision


class DecisionLog(Protocol):
    """Where lines go; they are made and written elsewhere than on the event loop."""

    def write(self, make_lines: Callable[[], Iterable[Line]]) -> bool:
        """Returns whether there is a log at all."""
        ...


class NoLog:
    def write(self, make_lines: Callable[[], Iterable[Line]]) -> bool:
        return False


class DecisionRecorder:
    """An `AnswerRecorder`; one for all requests of a router.

    `table` returns the table without API keys. `max_answers`: how many answers it remembers for feedback.
    `authors` are those of earlier turns. `spend` gets the key's name and the number of tokens of each.
    """

    def __init__(
        self,
        metrics: m.Metrics,
        log: DecisionLog,
        table: Callable[[], RouteTable],
        max_answers: int = MAX_ANSWERS,
        spend: Callable[[str, int], None] | None = None,
    ) -> None:
        self._metrics = m.BoundedMetrics(metrics)
        self._log = log
        self._table = table
        self._spend = spend
        self._answers = RecentAnswers(max_answers)
        self.authors = TurnAuthors()

    def ended(self, generation: GenerationRequest, state: GenerationState, table: RouteTable) -> None:
        whole = self._table()
        num_beyond_key = max(0, len(whole.experts) - len(table.experts))
        key, decisions = state.admission.key, state.trail.decisions
        self._metrics.add(m.ANSWERS, 1, {"outcome": outcome(state)})
        for decision in decisions:
            self._count_decision(decision, num_beyond_key)
        self._count_shadows(state)
        self._count_tokens(state, key_label(key))
        if self._spend is not None:
            self._spend(key, _num_tokens(state))
        target = next((each.winner for each in decisions if each.winner), None)
        if not generation.target.routed:
            target = None if generation.target.writer == META else generation.target.writer
        self._answers.add(generation.request_id.rpartition("-")[0], RecentAnswer(key, target))
        if state.finish is not None and generation.routing.stay_bias_in(table):
            text = state.transcript.text[: state.transcript.num_visible]
            self.authors.wrote(generation, key, state.author, text)
        if decisions and whole.decision_log is not None:
            with_text = whole.decision_log.text
            ended_at = timestamp()  # the lines may be made much later
            lines = partial(decision_lines, generation, state, num_beyond_key, ended_at, with_text=with_text)
            self._log.write(lines)

    def performed(self, state: GenerationState) -> None:
        key = state.admission.key
        self._count_tokens(state, key_label(key))
        if self._spend is not None:
            self._spend(key, _num_tokens(state))

    def feedback(self, answer_id: str, right_expert: str | None, key: str) -> tuple[Verdict, bool]:
        """Take what a client says of an answer. Returns the verdict, and whether it was logged.

        Raises:
            UnknownAnswer: no router gave this id, this router has forgotten it, or another key asked.
        """
        answer = self._answer(answer_id, key)
        verdict = _verdict(answer, right_expert)
        target = "unknown" if answer is None else answer.target or META
        self._metrics.add(m.FEEDBACK, 1, {"target": target, "verdict": verdict.value})
        found = (None, False) if answer is None else (answer.target, True)
        line = feedback_line(answer_id, key, right_expert, found[0], is_known=found[1])
        return verdict, self._log.write(lambda: [line])

    def _answer(self, answer_id: str, key: str) -> RecentAnswer | None:
        match, answer = ANSWER_ID.fullmatch(answer_id), self._answers.find(answer_id)
        is_own = match is not None and match[1].startswith(ROUTER_DIGITS)
        if match is None or (is_own and answer is None) or (answer is not None and answer.key != key):
            raise UnknownAnswer(
                "no answer with this id is known here: send the id of a recent answer, with the same API key",
                "id",
            )
        return answer

    def _count_decision(self, decision: Decision, num_beyond_key: int) -> None:
        together = {"key": num_beyond_key, **dict.fromkeys(_COUNTED_TOGETHER, 0)}
        for expert, reason in decision.masked.items():
            if reason in together:
                together[reason] += 1
            else:
                self._metrics.add(m.MASKED, 1, {"expert": expert, "reason": reason})
        for reason, num in together.items():
            if num:
                self._metrics.add(m.MASKED, num, {"expert": m.ALL_EXPERTS, "reason": reason})
        if not decision.allowed:
            return
        target = decision.winner or META
        self._metrics.add(m.DECISIONS, 1, {"target": target})
        if decision.probability is not None:
            self._metrics.add(m.PROBABILITY, decision.probability, {"target": target})
        for to, margin in zip(("word", "expert"), margins(decision), strict=True):
            if margin is not None:
                self._metrics.add(m.MARGIN, margin, {"target": target, "to": to})
        if decision.winner is not None and decision.redecided is not None:
            tags = {"expert": decision.winner, "reason": decision.redecided}
            self._metrics.add(m.REDECISIONS, 1, tags)

    def _count_shadows(self, state: GenerationState) -> None:
        for shadow in state.trail.shadows:
            self._metrics.add(m.SHADOW_DECISIONS, 1, {"shadow": shadow})
        for win in state.trail.shadow_wins.values():
            self._metrics.add(m.SHADOW_WINS, 1, {"shadow": win.shadow, "over": win.over or META})
            self._metrics.add(m.SHADOW_PROBABILITY, win.probability, {"shadow": win.shadow})

    def _count_tokens(self, state: GenerationState, key: str) -> None:
        for model, usage in state.usage.items():
            for metric, num_tokens in (
                (m.PROMPT_TOKENS, usage.num_prompt_tokens),
                (m.COMPLETION_TOKENS, usage.num_completion_tokens),
                (m.HIDDEN_TOKENS, usage.num_hidden_tokens),
            ):
                if num_tokens:
                    self._metrics.add(metric, num_tokens, {"model": model, "key": key})


def _num_tokens(state: GenerationState) -> int:
    return sum(usage.num_prompt_tokens + usage.num_completion_tokens for usage in state.usage.values())


def _verdict(answer: RecentAnswer | None, right_expert: str | None) -> Verdict:
    if answer is None:
        return Verdict.UNKNOWN
    if answer.target == right_expert:
        return Verdict.RIGHT
    if right_expert is None:
        return Verdict.FALSE_TRIGGER
    return Verdict.MISSED if answer.target is None else Verdict.WRONG_EXPERT
