import random
import re

import pytest

from examples.smollm2 import general
from examples.smollm2.domains import DOMAINS
from examples.smollm2.general import CHATS
from examples.smollm2.question import PARTS

# What fills the slots of a frame, so that "{} in {}" is not taken for every question with "in".
_SLOTS = {
    "logs": {"": r"[^?]*\d\d:\d\d:\d\d.*"},
    "sql": {"request": ".+", "schema": r".*\w+ ?\(.*"},
    "empathy": {"message": ".+", "reply": ".+"},
    "roman": {"": r"\d+"},
    "units": {"amount": r"[\d.,]+ \w+", "target": r"\w+"},
    "dates": {"": r".*\d.*"},
}


def patterns(domain, part):
    for frame in DOMAINS[domain].PHRASINGS.frames[part]:
        pieces = re.split(r"\{(\w*)\}", frame)
        texts = [re.escape(piece.strip(".?! ")) for piece in pieces[::2]]
        slots = [_SLOTS[domain][name] for name in pieces[1::2]] + [r"\W*"]
        yield re.compile(
            "".join(f"[ .?!]*{t}[ .?!]*{s}" for t, s in zip(texts, slots, strict=True)), re.I | re.S
        )


def last_turns(part):
    return [turns[-1] for turns in CHATS[part].all]


def test_there_are_many_questions():
    assert len(set(CHATS["train"].all)) == len(CHATS["train"].all) >= 450
    assert len(set(CHATS["held_out"].all)) == len(CHATS["held_out"].all) >= 170


@pytest.mark.parametrize("part", PARTS)
def test_at_least_a_third_are_neighbours_of_a_domain(part):
    assert 3 * len(CHATS[part].neighbours) >= len(CHATS[part].all)


def test_no_question_is_in_both_parts():
    train, held_out = ({text.lower() for text in last_turns(part)} for part in PARTS)
    assert train.isdisjoint(held_out)


@pytest.mark.parametrize("part", PARTS)
def test_conversations_end_with_the_user_and_some_are_long(part):
    questions = general.questions(part)
    assert all(question.domain is None and question.answer == "" for question in questions)
    assert all(question.messages[-1]["role"] == "user" for question in questions)
    assert sum(len(question.messages) > 1 for question in questions) >= 10
    assert sum(len(question.text) > 200 for question in questions) >= 3


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_general_question_is_phrased_as_a_domains(domain):
    for part in PARTS:
        for pattern in patterns(domain, part):
            for text in (text for other in PARTS for text in last_turns(other)):
                assert not pattern.fullmatch(text), (pattern.pattern, text)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_patterns_find_the_domains_own_questions(domain):
    rng = random.Random(0)
    found = list(patterns(domain, "train"))
    singles = [q for q in (DOMAINS[domain].sample(rng, "train") for _ in range(200)) if len(q.messages) == 1]
    num_matched = sum(any(pattern.fullmatch(question.text) for pattern in found) for question in singles)
    # The rest has greetings, typos or courtesy.
    assert num_matched > 0.5 * len(singles)


def test_more_questions_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"num=10000: held_out has \d+ general questions; ask for no more"):
        general.sample(10_000, random.Random(0), "held_out")
