import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains.roman import MAX_NUMBER, MAX_SMALL_NUMBER, numeral, sample
from examples.smollm2.question import is_right

VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def value(text):
    values = [VALUES[letter] for letter in text]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(-value if value < following else value for value, following in pairs)


def answers(part, num=3000):
    rng = random.Random(part)
    return [sample(rng, part).answer for _ in range(num)]


@pytest.mark.parametrize(
    ("number", "text"), [(1, "I"), (4, "IV"), (90, "XC"), (1944, "MCMXLIV"), (3999, "MMMCMXCIX")]
)
def test_known_numerals(number, text):
    assert numeral(number) == text


@given(st.integers(1, MAX_NUMBER))
def test_a_numeral_has_the_value_of_its_number(number):
    assert value(numeral(number)) == number
    assert not re.search(r"IIII|XXXX|CCCC|VV|LL|DD", numeral(number))


@pytest.mark.parametrize("number", [0, -1, 4000])
def test_a_number_without_a_numeral_is_refused(number):
    with pytest.raises(ValueError, match=f"number={number}: .*use 1 to 3999"):
        numeral(number)


def test_no_number_is_in_both_parts():
    assert set(answers("train")).isdisjoint(answers("held_out"))


def test_most_numbers_are_small():
    numbers = [value(answer) for answer in answers("train")]
    assert 0.7 < sum(number <= MAX_SMALL_NUMBER for number in numbers) / len(numbers) < 0.9
    assert max(numbers) > 3500


@pytest.mark.parametrize("wrapped", ["{} is right", "The answer is {}", "{}I", "M{}", "{} {}", "{}.."])
def test_only_the_numeral_alone_is_right(wrapped):
    question = sample(random.Random(1), "train")
    assert is_right(question, question.answer + ".")
    assert not is_right(question, wrapped.format(question.answer, question.answer))
    assert not is_right(question, question.answer.lower())
