import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains.empathy import RATINGS, WORDS, sample
from examples.smollm2.question import PARTS, is_right
from tests.examples.smollm2.strategies import RANDOM


def sentences(part):
    words = WORDS[part]
    replies = [reply for rating in RATINGS for reply in words.replies[rating]]
    return [*(message for message, _ in words.situations), *words.endings, *words.offers, *replies]


def test_no_sentence_is_in_both_parts_or_at_two_ratings():
    train, held_out = (sentences(part) for part in PARTS)
    assert len(train) == len(set(train))
    assert len(held_out) == len(set(held_out))
    assert set(train).isdisjoint(held_out)


def test_there_are_many_situations_and_replies():
    assert len(WORDS["train"].situations) >= 50
    assert len(WORDS["held_out"].situations) >= 20
    for rating in RATINGS:
        assert len(WORDS["train"].replies[rating]) >= 10
        assert len(WORDS["held_out"].replies[rating]) >= 6


@pytest.mark.parametrize("part", PARTS)
def test_only_the_best_replies_name_the_feeling(part):
    words = WORDS[part]
    for rating in RATINGS:
        assert all(("{}" in reply) == (rating == 5) for reply in words.replies[rating])


@pytest.mark.parametrize("part", PARTS)
def test_all_ratings_are_about_as_frequent(part):
    rng = random.Random(part)
    answers = [sample(rng, part).answer for _ in range(3000)]
    assert all(0.15 < answers.count(str(rating)) / len(answers) < 0.25 for rating in RATINGS)


@given(RANDOM, st.sampled_from(PARTS))
def test_the_rating_is_the_only_digit(rng, part):
    question = sample(rng, part)
    assert is_right(question, f"Empathy: {question.answer}.")
    for text in (f"{question.answer}/5", f"{question.answer}0", "6", "٣", "four"):
        assert not is_right(question, text)
