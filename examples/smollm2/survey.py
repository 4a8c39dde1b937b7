"""Asks a served cluster its test questions over HTTP, and scores the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.client.batch_chat import ask_models
from experts.evaluate.answers import is_right
from experts.learn.hidden_states import Progress
from experts.learn.queries import Query

MAX_TOKENS = 64

# Whether a text answers a query of an expert.
Judge = Callable[[Query, str], bool]


@dataclass(frozen=True)
class Scores:
    """Shares of the questions, 0 to 1. The accuracies count right answers. `oracle`: every question goes to
    its own expert. `best_single`: the best model that answers all questions alone. `route_accuracy`:
    questions that reached their expert. `false_trigger_rate`: general questions that were handed over,
    anywhere in the answer."""

    meta_accuracy: float
    routed_accuracy: float
    oracle_accuracy: float
    best_single_accuracy: float
    route_accuracy: float
    false_trigger_rate: float
    num_questions: int
    by_expert: Mapping[str, Mapping[str, float]]


async def survey(
    url: str,
    name: str,
    questions: Sequence[Query],
    judge: Judge = is_right,
    progress: Progress = lambda done, total, what: None,
) -> Scores:
    """Ask the whole cluster every question, and each model alone the questions of all experts."""
    known = [question for question in questions if question.expert]
    experts = sorted({question.expert for question in known if question.expert})
    routed = (await ask_models(url, [name], questions, progress=progress, max_tokens=MAX_TOKENS))[name]
    models = {model: f"{name}/{model}" for model in ("meta", *experts)}
    replies = await ask_models(url, list(models.values()), known, progress=progress, max_tokens=MAX_TOKENS)
    right = {
        model: [judge(question, reply.text) for question, reply in zip(known, replies[served], strict=True)]
        for model, served in models.items()
    }
    routed_known = [reply for reply, question in zip(routed, questions, strict=True) if question.expert]
    right["routed"] = [
        judge(question, reply.text) for question, reply in zip(known, routed_known, strict=True)
    ]
    right["oracle"] = [right[question.expert][i] for i, question in enumerate(known) if question.expert]
    return Scores(
        meta_accuracy=_share(right["meta"]),
        routed_accuracy=_share(right["routed"]),
        oracle_accuracy=_share(right["oracle"]),
        best_single_accuracy=max(_share(right[model]) for model in models),
        route_accuracy=_share(
            reply.writers[-1] == q.expert for reply, q in zip(routed_known, known, strict=True)
        ),
        false_trigger_rate=_share(
            reply.writers != ("meta",) for reply, q in zip(routed, questions, strict=True) if q.expert is None
        ),
        num_questions=len(questions),
        by_expert={expert: _row(expert, known, right) for expert in experts},
    )


def _row(expert: str, known: Sequence[Query], right: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    own = [i for i, question in enumerate(known) if question.expert == expert]
    return {column: _share(right[column][i] for i in own) for column in ("meta", "routed", "oracle")}


def _share(outcomes: Iterable[bool]) -> float:
    counted = list(outcomes)
    return sum(counted) / len(counted) if counted else 0.0
