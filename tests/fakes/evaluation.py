"""A small evaluation, as `etr eval` makes it."""

from __future__ import annotations

from experts.evaluate.evaluation import Evaluation
from experts.evaluate.false_handovers import GeneralKind
from experts.evaluate.intervals import Estimate
from experts.evaluate.methods import TOKENS, Measured, Method
from experts.evaluate.threshold_sweep import TriggerPoint
from experts.learn.routing_judge import Judgement, RouteScores, confusion

NAMES = ("chem", "law")
JUDGEMENTS = (
    Judgement("chem", "chem"),
    Judgement("chem", "chem"),
    Judgement("law", "law"),
    Judgement("law", "chem"),
    Judgement(None, None),
)


def evaluation() -> Evaluation:
    """Two experts, five queries, one wrong decision."""
    right = Measured((1.0, 1.0, 1.0, 0.0, 1.0), Estimate(0.8, 0.4, 1.0), Estimate(0.0, 0.0, 0.0))
    routes = RouteScores.of(JUDGEMENTS)
    return Evaluation(
        meta_name="meta",
        meta_fingerprint="f",
        dataset_digest="d",
        call_bias=0.0,
        names=NAMES,
        places=tuple(f"line {index}" for index in range(len(JUDGEMENTS))),
        experts=tuple(judgement.expert for judgement in JUDGEMENTS),
        kinds=(None, None, None, None, GeneralKind.SHORT),
        scored=(),
        methods=(Method(TOKENS, "the expert tokens", JUDGEMENTS, routes, right, None, None),),
        confusion=tuple(tuple(row) for row in confusion(JUDGEMENTS, NAMES)),
        sweep=(
            TriggerPoint(-5.0, 0.0, 0.0),
            TriggerPoint(0.0, routes.false_trigger_rate, routes.accuracy),
            TriggerPoint(5.0, 1.0, 0.75),
        ),
        notes=("the cluster was not asked",),
    )
