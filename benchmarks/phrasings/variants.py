"""What tokens are learned from: questions that are given, and what models write besides."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from experts.learn.hidden_states import Progress
from experts.learn.own_answers import choose_unanswered, with_answers, write_answers
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from experts.synthesize.asker import Asker
from experts.synthesize.paraphrase import (
    can_be_rephrased,
    paraphrase_requests,
    rephrased,
    write_paraphrases,
)
from experts.synthesize.questions import Draw, synthesize
from experts.synthesize.user_turn import UserTurn

Kind = Literal["data", "answered", "paraphrases", "synthesised", "general"]

# "answered" are the same queries as "data", with the meta's own answers.
VARIANTS: Mapping[str, tuple[Kind, ...]] = {
    "the questions alone": ("data",),
    "and the middle of own answers": ("answered",),
    "and paraphrases": ("data", "paraphrases"),
    "and synthesised questions": ("data", "synthesised"),
    "and general questions of the meta": ("data", "general"),
    "and all of these": ("answered", "paraphrases", "synthesised", "general"),
}
# The domains in a sentence, for the meta to ask about. The experts were trained on answers alone.
SUBJECTS = {
    "logs": "You turn lines of log files into JSON.",
    "sql": "You translate questions about database tables into SQL.",
    "empathy": "You rate how empathetic a reply to a message is, on a scale from 1 to 5.",
    "roman": "You convert numbers to Roman numerals.",
    "units": "You convert lengths, weights, temperatures and other measures between units.",
    "dates": "You rewrite dates as year-month-day.",
}
NUM_PARAPHRASES = 2
NUM_GENERAL = 100


@dataclass(frozen=True)
class Sources:
    """Queries by where they are from."""

    by_kind: Mapping[Kind, Sequence[Query]]

    @property
    def queries(self) -> list[Query]:
        """All of them, kind by kind."""
        return [query for queries in self.by_kind.values() for query in queries]

    def indices(self, kinds: Collection[Kind]) -> list[int]:
        """Where the queries of these kinds are in `queries`."""
        found: list[int] = []
        start = 0
        for kind, queries in self.by_kind.items():
            if kind in kinds:
                found += range(start, start + len(queries))
            start += len(queries)
        return found


def write_sources(
    meta: PreTrainedModel,
    renderer: PromptRenderer,
    data: Sequence[Query],
    num_synthesised: int,
    progress: Progress,
) -> Sources:
    """Let the meta write all that the variants learn from."""
    asker = Asker(meta, UserTurn.of(renderer))
    return Sources(
        {
            "data": data,
            "answered": _answered(meta, renderer, data, progress),
            "paraphrases": _paraphrases(meta, renderer, data, progress),
            "synthesised": [
                Query(_user(text), expert)
                for expert, subject in SUBJECTS.items()
                for text in _questions(
                    Asker(meta, UserTurn.of(renderer, subject)), asker, num_synthesised, progress
                )
            ],
            "general": [Query(_user(text)) for text in _questions(asker, None, NUM_GENERAL, progress)],
        }
    )


def _answered(
    meta: PreTrainedModel, renderer: PromptRenderer, data: Sequence[Query], progress: Progress
) -> list[Query]:
    chosen = choose_unanswered(data)
    answers = write_answers(meta, renderer, [data[index] for index in chosen], progress=progress)
    return with_answers(data, dict(zip(chosen, answers, strict=True)), late=False)


def _paraphrases(
    meta: PreTrainedModel, renderer: PromptRenderer, data: Sequence[Query], progress: Progress
) -> list[Query]:
    pairs = [
        (query, request)
        for query in data
        if can_be_rephrased(query)
        for request in paraphrase_requests(query, NUM_PARAPHRASES)
    ]
    texts = write_paraphrases(meta, renderer, [request for _, request in pairs], progress=progress)
    found = [rephrased(query, text) for (query, _), text in zip(pairs, texts, strict=True)]
    return [query for query in found if query is not None]


def _questions(writer: Asker, rival: Asker | None, num: int, progress: Progress) -> list[str]:
    return synthesize(writer, rival, Draw(num, max_texts_per_question=6), progress).questions


def _user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)
