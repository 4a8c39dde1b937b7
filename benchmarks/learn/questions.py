"""Query sets from the toy world's question generators, larger than the toy world's own files."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from benchmarks.toy.domains import DOMAINS, domain_split
from benchmarks.toy.question import GREETED_SHARE, Question, greet
from benchmarks.toy.smalltalk import smalltalk_split
from experts.learn.queries import Query


def draw_queries(seed: str, num_per_expert: int, num_general: int, *, held_out: bool = False) -> list[Query]:
    """Labelled queries of all six experts and of small talk, some with a greeting; fewer if there are not
    enough.

    Held-out queries are disjoint from all others, with any seeds.
    """
    draw = random.Random(seed)
    splits = [(domain_split(domain), num_per_expert) for domain in DOMAINS]
    questions: list[Question] = []
    for split, num in [*splits, (smalltalk_split(), num_general)]:
        pool = split.held_out if held_out else split.train
        questions += draw.sample(pool, min(num, len(pool)))
    return [_query(question) for question in _some_greeted(questions, draw)]


def _some_greeted(questions: Sequence[Question], draw: random.Random) -> Iterable[Question]:
    for question in questions:
        # Some small talk is a greeting already.
        bare = question.greeted or draw.random() >= GREETED_SHARE
        yield question if bare else greet(question, draw)


def _query(question: Question) -> Query:
    messages = ({"role": "user", "content": question.question},)
    if question.expert is None:
        return Query(messages, None, response=question.visible, answer=question.answer)
    return Query(messages, question.expert, question.written, question.answer, question.answer)
