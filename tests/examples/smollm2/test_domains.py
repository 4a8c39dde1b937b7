"""What all domains have in common."""

import difflib
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains import DOMAINS
from examples.smollm2.question import PARTS, is_right
from tests.examples.smollm2.strategies import RANDOM

ANY_DOMAIN = pytest.mark.parametrize("domain", DOMAINS)
MAX_SIMILARITY = 0.85
# About 60 tokens: a digit is a token, and other tokens have three letters or more on average.
MAX_ANSWER_CHARACTERS = 150


def questions(domain, part, num=400):
    rng = random.Random(f"{domain} {part}")
    return [DOMAINS[domain].sample(rng, part) for _ in range(num)]


def plain(text):
    return re.sub(r"\W+", " ", text.lower()).strip()


@ANY_DOMAIN
def test_there_are_many_phrasings(domain):
    phrasings = DOMAINS[domain].PHRASINGS
    assert len(set(map(plain, phrasings.frames["train"]))) >= 40
    assert len(set(map(plain, phrasings.frames["held_out"]))) >= 15
    assert all(len(phrasings.follow_ups[part]) >= 5 for part in PARTS)


@ANY_DOMAIN
def test_held_out_phrasings_are_other_wordings(domain):
    phrasings = DOMAINS[domain].PHRASINGS
    for held_out in phrasings.frames["held_out"]:
        for trained in phrasings.frames["train"]:
            similarity = difflib.SequenceMatcher(None, plain(held_out), plain(trained)).ratio()
            assert similarity < MAX_SIMILARITY, (held_out, trained)
    assert set(phrasings.follow_ups["train"]).isdisjoint(phrasings.follow_ups["held_out"])


@ANY_DOMAIN
def test_all_frames_have_the_same_slots(domain):
    # A frame without one of them would ask for something else. The table may be known already.
    for part in PARTS:
        slots = [set(re.findall(r"\{(\w*)\}", frame)) for frame in DOMAINS[domain].PHRASINGS.frames[part]]
        assert all(found == slots[0] for found in slots)


@ANY_DOMAIN
@pytest.mark.parametrize("part", PARTS)
def test_every_answer_passes_its_own_checker(domain, part):
    for question in questions(domain, part, 100):
        assert question.domain == domain
        assert is_right(question, question.answer)
        assert is_right(question, f" {question.answer}\n")


@ANY_DOMAIN
def test_answers_are_short_and_of_one_line(domain):
    for part in PARTS:
        for question in questions(domain, part):
            assert 0 < len(question.answer) <= MAX_ANSWER_CHARACTERS
            assert "\n" not in question.answer


@ANY_DOMAIN
@given(rng=RANDOM, part=st.sampled_from(PARTS))
def test_the_answer_to_another_question_is_wrong(domain, rng, part):
    question, other = (DOMAINS[domain].sample(rng, part) for _ in range(2))
    # Two statements can find the same rows: the right statement is the only one that is compared as text.
    if domain != "sql" and question.answer != other.answer:
        assert not is_right(question, other.answer)


@ANY_DOMAIN
@pytest.mark.parametrize("text", ["", " ", "I do not know.", "Sure! I can help you with that.", "null", "\0"])
def test_text_without_an_answer_is_wrong(domain, text):
    assert not any(is_right(question, text) for question in questions(domain, "train", 20))


@ANY_DOMAIN
def test_the_conversations_are_different_in_both_parts(domain):
    texts = [{question.text for question in questions(domain, part)} for part in PARTS]
    assert texts[0].isdisjoint(texts[1])


@ANY_DOMAIN
def test_questions_depend_only_on_the_seed(domain):
    assert questions(domain, "train", 50) == questions(domain, "train", 50)


def test_no_module_imports_torch():
    # Making questions must not take the seconds and the memory of torch.
    code = "import sys, examples.smollm2.query_set; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
