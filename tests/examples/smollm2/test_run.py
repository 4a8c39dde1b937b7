"""The demo's questions, its judge and its cluster.yaml fit each other."""

from __future__ import annotations

import pytest
import yaml

from examples.smollm2.domains import DOMAINS
from examples.smollm2.query_set import held_out_queries
from examples.smollm2.run import CHECKPOINT, CONFIG, FULL_SIZE, QUICK_SIZE, judge, shown, to_query
from experts.learn.queries import Query

QUERIES = [to_query(question) for question in held_out_queries(*QUICK_SIZE, seed=3)]


def test_the_cluster_has_an_expert_for_each_domain_and_its_meta_is_the_checkpoint():
    data = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    assert set(data["experts"]) == set(DOMAINS)
    assert (CONFIG.parent / data["meta"]["model"]["path"]).resolve() == CHECKPOINT
    for name, expert in data["experts"].items():
        adapter = expert["adapter"]["path"] if "adapter" in expert else expert["model"]["adapter"]
        assert adapter == f"adapters/{name}"


@pytest.mark.parametrize("query", [query for query in QUERIES if query.expert], ids=lambda q: q.place)
def test_the_judge_takes_the_right_answer_and_no_other(query: Query):
    assert query.answer is not None
    assert judge(query, query.answer)
    assert not judge(query, "I cannot say.")


def test_a_full_survey_has_enough_questions():
    questions = held_out_queries(*FULL_SIZE, seed=5)
    assert sum(question.domain is not None for question in questions) >= 300
    assert sum(question.domain is None for question in questions) >= 150


def test_questions_are_shown_for_each_expert_for_a_conversation_and_for_the_meta():
    chosen = shown(QUERIES)
    assert {query.expert for query in chosen} == {*DOMAINS, None}
    assert sum(query.expert is None for query in chosen) == 2
    assert any(len(query.messages) > 1 for query in chosen)
    texts = [query.messages[-1]["content"] for query in chosen]
    assert len(set(texts)) == len(texts)
