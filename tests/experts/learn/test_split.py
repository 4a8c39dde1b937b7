"""Which queries are held out."""

from __future__ import annotations

from dataclasses import replace

from experts.learn.split import split_queries
from tests.tiny.taught_meta import query, query_set

DATA = query_set(0, 20)


def test_questions_of_the_meta_do_not_change_how_the_data_is_split():
    of_meta = [replace(query(f"how are you {i}?", None), origin="meta") for i in range(10)]
    learned, held_out = split_queries([*DATA, *of_meta], 0.2)
    alone = split_queries(DATA, 0.2)[1]
    assert [index for index in held_out if index < len(DATA)] == alone
    assert len(held_out) == len(alone) + 2
    assert sorted([*learned, *held_out]) == list(range(len(DATA) + 10))


def test_paraphrases_are_never_held_out_and_change_nothing_for_the_others():
    paraphrases = [replace(query(f"say {one.question}", one.expert), origin="paraphrase") for one in DATA]
    learned, held_out = split_queries([*DATA, *paraphrases], 0.2)
    assert held_out == split_queries(DATA, 0.2)[1]
    assert {*range(len(DATA), 2 * len(DATA))} <= {*learned}
