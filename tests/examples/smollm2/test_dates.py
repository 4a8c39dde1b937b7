import datetime
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains.dates import sample
from examples.smollm2.domains.written_dates import ordinal, ordinal_word, written
from examples.smollm2.question import Question, is_right
from tests.examples.smollm2.strategies import RANDOM

DAY = Question("dates", ({"role": "user", "content": "3 March 2024 in ISO 8601"},), "2024-03-03")


def writings(day):
    rng = random.Random(0)
    return {written(day, rng) for _ in range(1000)}


def test_a_day_has_many_writings():
    found = writings(datetime.date(2024, 3, 3))
    assert {
        *("the 3rd of March 2024", "Mar 3, '24", "3.3.2024 (German style)", "03/03/2024 (US format)"),
        *("Sunday, 3 March 2024", "March the third 2024", "03-Mar-2024", "2024/03/03", "march 3 2024"),
    } <= found
    assert len(found) > 25


@given(st.dates(datetime.date(1950, 1, 1), datetime.date(2039, 12, 31)), RANDOM)
def test_a_writing_in_digits_names_its_order(day, rng):
    text = written(day, rng)
    if re.match(r"\d{1,2}[./-]\d{1,2}[./-]", text):
        assert re.search(r"\((German style|US format|British format|day first|month first)\)$", text)


@given(st.dates(datetime.date(1950, 1, 1), datetime.date(2039, 12, 31)))
def test_a_short_year_is_near_today(day):
    if not 2000 <= day.year < 2030:
        assert all(str(day.year) in text for text in writings(day))


def test_ordinals():
    numbers = (1, 2, 3, 4, 11, 12, 13, 20, 21, 22, 23, 30, 31)
    assert " ".join(map(ordinal, numbers)) == "1st 2nd 3rd 4th 11th 12th 13th 20th 21st 22nd 23rd 30th 31st"
    words = [ordinal_word(number) for number in range(1, 32)]
    assert words[:3] + words[18:21] + words[28:] == [
        *("first", "second", "third", "nineteenth", "twentieth", "twenty-first"),
        *("twenty-ninth", "thirtieth", "thirty-first"),
    ]
    assert len(set(words)) == 31


def test_no_day_is_in_both_parts():
    rng = random.Random(0)
    train, held_out = ({sample(rng, part).answer for _ in range(3000)} for part in ("train", "held_out"))
    assert train.isdisjoint(held_out)


@pytest.mark.parametrize("text", ["2024-03-03", "2024-03-03.", "The date is 2024-03-03, a Sunday."])
def test_the_only_iso_date_in_a_text_counts(text):
    assert is_right(DAY, text)


@pytest.mark.parametrize(
    "text",
    ["2024-03-04", "2024-03-03 or 2024-03-04", "2024-3-3", "12024-03-03", "2024-03-031", "3 March 2024"],
)
def test_another_date_or_several_are_wrong(text):
    assert not is_right(DAY, text)
