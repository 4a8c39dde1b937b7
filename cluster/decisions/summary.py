"""What a decision log says of each expert, of the meta and of each shadow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from cluster.decisions.log_reader import DecisionRecords, Line
from router.table import META


@dataclass(slots=True)
class TargetSummary:
    """The decisions for one expert, or for the meta: then it abstained.

    `probabilities` are those of the expert's token; the margins are in nats. `feedback` counts the verdicts
    on its answers, and `num_missed` the answers of others that it should have given.
    """

    num_decisions: int = 0
    num_redecided: int = 0
    probabilities: list[float] = field(default_factory=list)
    word_margins: list[float] = field(default_factory=list)
    expert_margins: list[float] = field(default_factory=list)
    feedback: Counter[str] = field(default_factory=Counter)
    num_missed: int = 0


@dataclass(slots=True)
class ShadowSummary:
    """`num_answers` is the number of answers in which it was scored; `over` counts those in which it would
    have taken over, by the model that did write there."""

    num_answers: int = 0
    over: Counter[str] = field(default_factory=Counter)
    probabilities: list[float] = field(default_factory=list)

    @property
    def num_wins(self) -> int:
        return self.over.total()


@dataclass(frozen=True)
class DecisionSummary:
    num_decisions: int
    targets: Mapping[str, TargetSummary]
    shadows: Mapping[str, ShadowSummary]


def summarize(records: DecisionRecords) -> DecisionSummary:
    """Decisions that had nothing to choose from are left out."""
    targets: defaultdict[str, TargetSummary] = defaultdict(TargetSummary)
    shadows: defaultdict[str, ShadowSummary] = defaultdict(ShadowSummary)
    decisions = [line for line in records.decisions if line["allowed"]]
    for line in decisions:
        _count(targets[line["winner"] or META], line)
    for line in records.decisions:
        _count_shadows(shadows, line)
    for answer_id, target in answer_targets(records.decisions).items():
        if (said := records.feedback.get(answer_id)) is not None:
            _judge(targets, target, said["right_expert"])
    return DecisionSummary(len(decisions), targets, shadows)


def answer_targets(decisions: Iterable[Line]) -> dict[str, str | None]:
    """By id of the answer: the expert that it was first handed over to, None if the meta wrote it itself."""
    targets: dict[str, str | None] = {}
    for line in decisions:
        if line["choice"] == 0:
            targets[line["id"]] = targets.get(line["id"]) or line["winner"]
    return targets


def mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def _count(target: TargetSummary, line: Line) -> None:
    target.num_decisions += 1
    target.num_redecided += line["redecided"] is not None
    for values, value in (
        (target.probabilities, line["probability"]),
        (target.word_margins, line["margin"]["word"]),
        (target.expert_margins, line["margin"]["expert"]),
    ):
        if value is not None:
            values.append(value)


def _count_shadows(shadows: defaultdict[str, ShadowSummary], line: Line) -> None:
    for name in line["scored_shadows"]:
        shadows[name].num_answers += 1
    for win in line["shadows"]:
        shadows[win["expert"]].over[win["over"]] += 1
        shadows[win["expert"]].probabilities.append(win["probability"])


def _judge(targets: defaultdict[str, TargetSummary], target: str | None, right: str | None) -> None:
    if target == right:
        targets[target or META].feedback["right"] += 1
        return
    targets[target or META].feedback["wrong"] += 1
    targets[right or META].num_missed += 1
