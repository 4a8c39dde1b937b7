"""False hand-overs on several kinds of general queries apart, since some are harder to keep than others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from experts.learn.hidden_states import States
from experts.learn.neighbours import near_experts
from experts.learn.queries import Query
from experts.learn.routing_judge import Judgement

MAX_SHORT_WORDS = 8
NUM_NEIGHBOURS = 5


class GeneralKind(StrEnum):
    """`NEIGHBOURING`: to the meta it is close to an expert's subject, as one of the NUM_NEIGHBOURS nearest
    queries is an expert's. All others are `SHORT`, with at most MAX_SHORT_WORDS words, or `LONG`."""

    SHORT = "short"
    LONG = "long"
    NEIGHBOURING = "neighbouring"


@dataclass(frozen=True)
class FalseHandovers:
    """Of `num_queries` general queries, how many were handed over."""

    num_queries: int
    num_handed_over: int


def general_kinds(queries: Sequence[Query], states: States) -> list[GeneralKind | None]:
    """The kind of each query; None for those of experts. `states`: of the queries, which are compared."""
    near = near_experts(states, queries, NUM_NEIGHBOURS)
    return [_kind(query, is_near) for query, is_near in zip(queries, near, strict=True)]


def count_false_handovers(
    judgements: Sequence[Judgement], kinds: Sequence[GeneralKind | None]
) -> dict[GeneralKind, FalseHandovers]:
    """By kind, in the order of GeneralKind."""
    pairs = list(zip(judgements, kinds, strict=True))
    routed = {kind: [judgement.routed for judgement, own in pairs if own == kind] for kind in GeneralKind}
    return {
        kind: FalseHandovers(len(experts), sum(expert is not None for expert in experts))
        for kind, experts in routed.items()
    }


def _kind(query: Query, is_near: bool) -> GeneralKind | None:
    if query.expert is not None:
        return None
    if is_near:
        return GeneralKind.NEIGHBOURING
    return GeneralKind.SHORT if len(query.question.split()) <= MAX_SHORT_WORDS else GeneralKind.LONG
