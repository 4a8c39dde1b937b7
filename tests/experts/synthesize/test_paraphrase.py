"""Queries in other words: which texts are accepted as such."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.learning import options
from experts.learn.own_answers import with_answer
from experts.synthesize.paraphrase import (
    MAX_PARAPHRASES,
    NUM_NEW_TOKENS,
    can_be_rephrased,
    paraphrase_requests,
    rephrased,
    write_paraphrases,
)
from tests.tiny.models import save_tiny_llama
from tests.tiny.taught_meta import query

QUESTION = 'What does "pax" cost in Rome for 14 days from 3.5 euros?'
ASKED = replace(query(QUESTION, "latin"), answer="XIV")


def test_another_wording_has_the_same_label_and_all_else_of_the_query():
    before = ({"role": "system", "content": "be brief"},)
    asked = replace(with_answer(ASKED, "own"), messages=(*before, *ASKED.messages), response="XIV")
    assert can_be_rephrased(asked)
    text = 'How much is "pax" in Rome, 14 days, from 3.5 euros?'
    found = rephrased(asked, f"  {text}\n")
    assert found is not None
    assert found.messages == (*before, {"role": "user", "content": text})
    assert (found.expert, found.response, found.answer) == ("latin", "XIV", "XIV")
    assert (found.origin, found.own_answer) == ("paraphrase", "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pax?",
        QUESTION,
        QUESTION.upper().rstrip("?"),
        'How much is "pax" in Rome, 15 days, from 3.5 euros?',
        'How much is "pax" in Rome from 3.5 euros?',
        'How much is "pax" in Rome, 14 days, from 3.5 euros, or 7?',
        "How much is pax in Rome, 14 days, from 3.5 euros?",
        'How much is "pax" there, 14 days, from 3.5 euros?',
        'How much is "pax" in Rome, 14 days (XIV), from 3.5 euros?',
        'How much is "pax" in Rome, 14 days, from 3.5 euros? ' + "I really want to know. " * 8,
        "How much is " * 20,
        'How much is "pax" in Rome, 14 days, or 14, from 3.5 euros?',
        'How much is "pax" in Rome, Italy, 14 days, from 3.5 euros?',
        'How much is "pax" in Rome, 14 "days", from 3.5 euros?',
    ],
    ids=str,
)
def test_a_text_that_loses_or_adds_something_or_answers_is_none(text: str):
    assert rephrased(ASKED, text) is None


def test_a_wording_in_quotation_marks_is_taken_out_of_them():
    found = rephrased(query("Convert 7 miles to feet", "units"), '"How many feet are 7 miles?"')
    assert found is not None
    assert found.question == "How many feet are 7 miles?"


def test_the_answer_may_be_in_the_wording_if_it_is_in_the_question():
    asked = replace(query("Is 7 or 8 larger?", "math"), answer="8")
    assert rephrased(asked, "Which is larger, 7 or 8?") is not None


def test_long_texts_choices_and_conversations_are_left_alone():
    assert can_be_rephrased(ASKED)
    assert not can_be_rephrased(query("word " * 100, "latin"))
    assert not can_be_rephrased(replace(ASKED, choices=("XIV", "XV"), answer="A"))
    assert not can_be_rephrased(replace(ASKED, messages=({"role": "tool", "content": "14"},)))
    assert not can_be_rephrased(query("score this:\nhello", "latin"))
    before = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"})
    assert not can_be_rephrased(replace(ASKED, messages=(*before, *ASKED.messages)))


def test_every_request_asks_for_another_kind_of_wording():
    requests = paraphrase_requests(ASKED, MAX_PARAPHRASES)
    assert MAX_PARAPHRASES == options.MAX_PARAPHRASES == len(requests)
    assert len({request.question for request in requests}) == MAX_PARAPHRASES
    assert all(request.question.endswith(QUESTION) for request in requests)
    assert paraphrase_requests(ASKED, 2) == requests[:2]
    # The examples are such wordings.
    example, *_ = (request.messages[0]["content"].split("\n\n")[1] for request in requests)
    for request in requests:
        assert rephrased(query(example, None), request.messages[1]["content"]) is not None


def test_a_text_without_an_end_is_left_out(renderer, tmp_path, taught_model):
    endless = save_tiny_llama(tmp_path, renderer.tokenizer)
    endless.config.max_position_embeddings = 2048
    steps: list[tuple[int, int, str]] = []
    requests = paraphrase_requests(query("ten?", "roman"), 1)
    texts = write_paraphrases(endless, renderer, requests, progress=lambda *step: steps.append(step))
    assert texts == [""]
    assert steps[-1] == (1, 1, "paraphrases")
    assert NUM_NEW_TOKENS > 1
    taught_model.config.max_position_embeddings, window = 2048, taught_model.config.max_position_embeddings
    try:
        assert len(write_paraphrases(taught_model, renderer, requests)[0]) in range(1, NUM_NEW_TOKENS)
    finally:
        taught_model.config.max_position_embeddings = window
