import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.phrasing import (
    COURTESIES,
    FOLLOW_UP_SHARE,
    GREETINGS,
    SHORT_FOLLOW_UPS,
    Exercise,
    Phrasings,
    add_courtesy,
    add_typo,
    converse,
    fill,
    make_casual,
    vary,
)
from examples.smollm2.question import PARTS
from tests.examples.smollm2.strategies import RANDOM

FRAME = "What is {} in Roman numerals?"
SLOTTED = st.sampled_from((FRAME, "Convert {amount} to {target}", "{}\nParse the line above.", "json: {}"))


def slots_of(frame):
    return re.findall(r"\{\w*\}", frame)


def draw(rng, part, before):
    number = rng.randrange(1000)
    return Exercise({"": str(number)}, f"answer {number}")


@given(SLOTTED, RANDOM, st.sampled_from(PARTS))
def test_variations_keep_the_slots(frame, rng, part):
    for varied in (vary(frame, rng, part), add_typo(frame, rng), add_courtesy(frame, rng, part)):
        assert slots_of(varied) == slots_of(frame)
    assert slots_of(make_casual(frame)) == slots_of(frame)


@given(RANDOM)
def test_a_typo_changes_one_word_by_one_letter(rng):
    before, after = FRAME.split(), add_typo(FRAME, rng).split()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) <= 1  # swapping two equal letters changes nothing
    for a, b in changed:
        assert a[0] == b[0]
        assert abs(len(a) - len(b)) == 1 or sorted(a) == sorted(b)


def test_a_frame_of_short_words_gets_no_typo():
    assert add_typo("{} to {target} now", random.Random(0)) == "{} to {target} now"


@given(st.text())
def test_an_input_is_filled_in_as_it_is(text):
    assert fill("<{}|{other}>{ x }", {"": text, "other": "{}"}) == f"<{text}|{{}}>{{ x }}"


def test_no_word_of_courtesy_follows_an_input():
    rng = random.Random(0)
    for _ in range(50):
        for frame in ("Parse this: {}", "as JSON: `{}`"):
            assert add_courtesy(frame, rng, "train").endswith(frame[-4:])


def test_a_polite_question_keeps_its_mark():
    texts = {add_courtesy(FRAME, random.Random(seed), "train") for seed in range(100)}
    assert "What is {} in Roman numerals, por favor?" in texts
    assert "Por favor, what is {} in Roman numerals?" in texts


def test_a_casual_question_is_in_lower_case_without_a_mark():
    assert make_casual(FRAME) == "what is {} in roman numerals"
    assert make_casual("Parse {Line}.") == "parse {Line}"


def test_the_parts_have_different_words():
    for words in (GREETINGS, COURTESIES, SHORT_FOLLOW_UPS):
        assert set(words["train"]).isdisjoint(words["held_out"])
    # As part of other words: "Hi, " is in "Hi, how are you?" of the same part only.
    for held_out in GREETINGS["held_out"]:
        assert not any(held_out.startswith(greeting) for greeting in GREETINGS["train"])


def test_a_follow_up_comes_after_right_answers():
    phrasings = Phrasings({"train": ("ask {}",), "held_out": ("query {}",)})
    rng = random.Random(0)
    questions = [converse("roman", phrasings, draw, rng, "train") for _ in range(2000)]
    follow_ups = [question for question in questions if len(question.messages) > 1]
    assert len(follow_ups) / len(questions) == pytest.approx(FOLLOW_UP_SHARE, abs=0.03)
    assert {len(question.messages) for question in questions} == {1, 3, 5}
    for question in follow_ups:
        asked, answered = question.messages[-3:-1]
        assert [message["role"] for message in (asked, answered)] == ["user", "assistant"]
        assert re.findall(r"\d+", answered["content"]) == re.findall(r"\d+", asked["content"])
        assert question.answer != answered["content"]
        assert question.answer.split()[-1] in question.text
