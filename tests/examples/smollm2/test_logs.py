import json
import random
from dataclasses import fields as fields_of

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains.log_lines import WORDS, LogWords, draw_line
from examples.smollm2.domains.logs import sample
from examples.smollm2.question import PARTS, is_right
from tests.examples.smollm2.strategies import RANDOM

KEYS = {
    *(("level", "service", "message"), ("method", "path", "status")),
    *(("host", "process", "message"), ("level", "source", "message")),
}


def lines(part, num=2000):
    rng = random.Random(part)
    return [draw_line(rng, part) for _ in range(num)]


@pytest.mark.parametrize("part", PARTS)
def test_the_format_of_the_line_decides_the_fields(part):
    assert {tuple(fields) for _, fields in lines(part)} == KEYS


@pytest.mark.parametrize("part", PARTS)
def test_all_values_occur_in_the_line(part):
    for line, fields in lines(part):
        for key, value in fields.items():
            # klog writes only the first letter of a level.
            assert str(value) in line or (key == "level" and line[0] == str(value)[0])


def test_lines_look_like_those_of_known_programs():
    found = "\n".join(line for line, _ in lines("train"))
    for sign in (
        "HTTP/1.1",
        ".go:",
        "msg=",
        "] [ERROR] [",
        "curl/8.5.0",
        "[pid ",
        "sshd[",
        "Z ERROR ",
        " - WARN - ",
    ):
        assert sign in found


@pytest.mark.parametrize("kind", [field.name for field in fields_of(LogWords)])
def test_no_word_is_in_both_parts(kind):
    train, held_out = (getattr(WORDS[part], kind) for part in PARTS)
    assert set(train).isdisjoint(held_out)
    assert len(train) == len(set(train))


@given(RANDOM, st.sampled_from(PARTS))
def test_a_changed_field_is_wrong(rng, part):
    question = sample(rng, part)
    right = json.loads(question.answer)
    key = rng.choice(list(right))
    assert is_right(question, json.dumps(dict(reversed(right.items())), indent=1))
    for wrong in (
        right | {key: "x"},
        right | {"more": 1},
        {k: v for k, v in right.items() if k != key},
        [right],
    ):
        assert not is_right(question, json.dumps(wrong))


def test_text_around_the_object_is_wrong():
    question = sample(random.Random(0), "train")
    assert not is_right(question, f"Here it is: {question.answer}")
    assert not is_right(question, "[" * 100_000)
