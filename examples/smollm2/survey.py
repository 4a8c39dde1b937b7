"""Asks the served demo its held-out questions over HTTP, and scores the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.client.batch_chat import Reply, ask_models
from experts.evaluate.answers import is_right
from experts.learn.queries import Query

MAX_TOKENS = 64


@dataclass(frozen=True)
class Scores:
    """Shares of the questions, 0 to 1. The accuracies count answers that are exactly right. `oracle`: every
    question goes to its own expert. `best_single`: the best model that answers all questions alone.
    `route_accuracy`: questions that reached their expert. `false_trigger_rate`: general queries that were
    handed over."""

    meta_accuracy: float
    routed_accuracy: float
    oracle_accuracy: float
    best_single_accuracy: float
    route_accuracy: float
    false_trigger_rate: float
    num_questions: int
    by_expert: Mapping[str, Mapping[str, float]]


async def ask_all(url: str, model: str, questions: Sequence[Query]) -> list[Reply]:
    """The greedy answers of `model`, in the order of the questions."""
    return (await ask_models(url, [model], questions, max_tokens=MAX_TOKENS))[model]


async def survey(url: str, name: str, questions: Sequence[Query]) -> Scores:
    """Ask the whole cluster every question, and each model alone the questions of all experts."""
    known = [question for question in questions if question.expert]
    experts = sorted({question.expert for question in known if question.expert})
    routed = await ask_all(url, name, questions)
    models = {model: f"{name}/{model}" for model in ("meta", *experts)}
    replies = await ask_models(url, list(models.values()), known, max_tokens=MAX_TOKENS)
    alone = {model: replies[served] for model, served in models.items()}
    routed_known = [reply for reply, question in zip(routed, questions, strict=True) if question.expert]
    oracle = [alone[question.expert][i] for i, question in enumerate(known) if question.expert]
    return Scores(
        meta_accuracy=_accuracy(alone["meta"], known),
        routed_accuracy=_accuracy(routed_known, known),
        oracle_accuracy=_accuracy(oracle, known),
        best_single_accuracy=max(_accuracy(own, known) for own in alone.values()),
        route_accuracy=_share(
            reply.writers[-1] == q.expert for reply, q in zip(routed_known, known, strict=True)
        ),
        false_trigger_rate=_share(
            reply.writers != ("meta",) for reply, q in zip(routed, questions, strict=True) if q.expert is None
        ),
        num_questions=len(questions),
        by_expert={
            expert: {
                column: _accuracy(*_select(expert, own, known))
                for column, own in (("meta", alone["meta"]), ("routed", routed_known), ("oracle", oracle))
            }
            for expert in experts
        },
    )


def _select(
    expert: str, replies: Sequence[Reply], questions: Sequence[Query]
) -> tuple[list[Reply], list[Query]]:
    chosen = [i for i, question in enumerate(questions) if question.expert == expert]
    return [replies[i] for i in chosen], [questions[i] for i in chosen]


def _accuracy(replies: Sequence[Reply], questions: Sequence[Query]) -> float:
    """The meta's greeting does not count, because an expert alone need not greet back."""
    pairs = zip(replies, questions, strict=True)
    return _share(is_right(question, reply.text) for reply, question in pairs)


def _share(outcomes: Iterable[bool]) -> float:
    counted = list(outcomes)
    return sum(counted) / len(counted) if counted else 0.0
