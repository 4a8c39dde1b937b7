import json
from collections import Counter

import pytest

from examples.smollm2.domains import DOMAINS
from examples.smollm2.query_set import held_out_queries, train_queries, write_jsonl
from examples.smollm2.question import is_right
from experts.learn import read_queries

TRAIN = train_queries(100, 300, seed=1)
HELD_OUT = held_out_queries(50, 120, seed=1)


def contents(questions):
    return [tuple(message["content"] for message in question.messages) for question in questions]


def test_there_are_as_many_questions_as_asked_for():
    for questions, num_each, num_general in ((TRAIN, 100, 300), (HELD_OUT, 50, 120)):
        found = Counter(question.domain or "general" for question in questions)
        assert found == dict.fromkeys(DOMAINS, num_each) | {"general": num_general}


def test_no_question_occurs_twice():
    texts = contents(TRAIN) + contents(HELD_OUT)
    assert len(texts) == len(set(texts))


def test_the_domains_are_mixed():
    assert len({q.domain for q in TRAIN[:60]}) == len(DOMAINS) + 1


def test_the_same_seed_gives_the_same_questions():
    assert train_queries(100, 300, seed=1) == TRAIN
    assert train_queries(100, 300, seed=2) != TRAIN


def test_more_general_questions_leave_the_others_as_they_are():
    more = train_queries(100, 310, seed=1)
    kept = {text for q, text in zip(more, contents(more), strict=True) if q.domain}
    assert kept == {text for q, text in zip(TRAIN, contents(TRAIN), strict=True) if q.domain}


def test_a_used_up_domain_is_named(monkeypatch):
    monkeypatch.setattr("examples.smollm2.query_set.DOMAINS", {"roman": OneQuestion})
    with pytest.raises(ValueError, match=r"num_each=3: roman gave only 1 different .*; ask for fewer"):
        train_queries(3, 0, seed=1)


class OneQuestion:
    @staticmethod
    def sample(rng, part):
        return TRAIN[0]


def test_the_file_is_read_as_a_query_set(tmp_path):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, TRAIN)
    queries = read_queries(path)
    assert len(queries) == len(TRAIN)
    for query, question in zip(queries, TRAIN, strict=True):
        assert query.labelled
        assert query.expert == question.domain
        assert [dict(message) for message in query.messages] == list(question.messages)
        assert query.response == question.answer == (query.answer or "")


def test_general_rows_have_no_answer(tmp_path):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, TRAIN)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        assert set(row) == ({"messages", "expert", "answer"} if row["expert"] else {"messages", "expert"})
        assert (row["messages"][-1]["role"] == "assistant") == (row["expert"] is not None)


def test_all_reference_answers_are_right():
    assert all(is_right(question, question.answer) for question in HELD_OUT if question.domain)
