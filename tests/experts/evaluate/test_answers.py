"""Which answers are right, strictly and leniently."""

from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.evaluate.answers import choose, is_right
from experts.learn import Query

ASKED = ({"role": "user", "content": "What?"},)
METALS = ("Iron", "Lead", "Gold and silver", "Gold")

words = st.text(st.sampled_from("abcdefgh éßΩ3"), min_size=1).filter(str.strip)
choices = st.lists(words, min_size=2, max_size=6, unique_by=lambda text: "".join(text.casefold().split()))


def query(answer: str, written: str = "", response: str = "", choices: tuple[str, ...] = ()) -> Query:
    return Query(ASKED, "chemistry", written, response, answer, choices)


@pytest.mark.parametrize(
    ("answer", "text", "strict", "lenient"),
    [
        ("XIV", "XIV", True, True),
        ("XIV", " xiv\n", True, True),
        ("New  York", "new york", True, True),
        ("ﬁve", "five", True, True),  # a ligature
        ("Straße", "STRASSE", True, True),
        ("XIV", "It is XIV, of course.", False, True),
        ("XIV", "XIV.", False, True),
        ("XIV", "XIVI", False, False),
        ("3", "It is 3.", False, True),
        ("3", "It is 3.5", False, False),
        ("3", "It is 13", False, False),
        ("...", "...", True, True),
        ("...", "It is ... here", False, True),
        ("...", "....", False, False),
        (".-", "The code: .-.", False, False),
        ("C", "C++", False, True),
        ("C++", "It is C++.", False, True),
        ("C+", "It is C++", False, False),
        ("XIV", "", False, False),
    ],
)
def test_free_text_is_right_if_it_is_the_answer_or_leniently_contains_it(answer, text, strict, lenient):
    assert is_right(query(answer), text) is strict
    assert is_right(query(answer), text, lenient=True) is lenient


def test_text_that_the_meta_writes_first_is_not_part_of_the_answer():
    greeted = query("XIV", written="Hello! ")
    assert is_right(greeted, "Hello! XIV")
    assert is_right(greeted, "XIV")
    assert not is_right(greeted, "Hello, XIV")
    assert not is_right(query("XIV"), "Hello! XIV")


def test_the_whole_reference_is_right():
    assert is_right(query("XIV", response="14 is XIV."), "14 is xiv.")
    assert not is_right(query("XIV", response="14 is XIV."), "14 is XV.")


@given(answer=words, before=words, after=words)
def test_an_answer_among_other_words_is_right_leniently_alone(answer, before, after):
    text = f"{before} {answer} {after}"
    assert is_right(query(answer), text, lenient=True)
    if len(text.casefold().split()) > len(answer.casefold().split()):
        assert not is_right(query(answer), text)


@given(answer=words, text=st.text())
def test_a_strictly_right_answer_is_leniently_right(answer, text):
    for given_text in (answer, text):
        assert is_right(query(answer), given_text) <= is_right(query(answer), given_text, lenient=True)


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("B", "B", "B"),
        ("b", "B", "B"),
        ("(B)", "B", "B"),
        ("B.", "B", "B"),
        ("B)", "B", "B"),
        ("The answer is (B)", "B", "B"),
        ("The correct answer is B.", "B", "B"),
        ("Answer: B", "B", "B"),
        ("(B) Lead", "B", "B"),
        ("lead", "B", "B"),
        ("gold and silver", "C", "C"),
        ("(B) Iron", None, "B"),  # two choices at once
        ("E", None, "B"),  # not one of the letters, but similar to "lead"
        ("", None, None),
        ("I would say lead.", None, "B"),
        ("After some thought, I choose gold and silver.", None, "C"),
        ("Iron is wrong; B is correct", None, "B"),
        ("Not A. The answer is D.", None, "D"),
        ("D, because A and B are too soft", None, "D"),
        ("A good question: C or D", None, "A"),  # a known weakness of single letters
        ("leed", None, "B"),  # most alike
        ("goldandsilver", None, "C"),
        ("0000", None, None),
    ],
)
def test_choices_are_read_strictly_and_leniently(text, strict, lenient):
    assert choose(text, METALS) == strict
    assert choose(text, METALS, lenient=True) == lenient


def test_a_letter_that_is_also_another_choice_is_ambiguous():
    swapped = ("B", "A", "neither")
    assert choose("B", swapped) is None
    assert choose("The answer is (B)", swapped) == "B"
    assert choose("neither", swapped) == "C"


def test_a_multiple_choice_query_is_right_by_its_letter():
    asked = query("B", written="Hello! ", choices=METALS)
    assert is_right(asked, "Hello! (B)")
    assert is_right(asked, "lead")
    assert not is_right(asked, "iron")
    assert not is_right(asked, "Probably lead")
    assert is_right(asked, "Probably lead", lenient=True)


@given(options=choices, data=st.data())
def test_every_choice_can_be_made_by_its_letter(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    letter = ascii_uppercase[index]
    for text in (f"({letter})", f"The answer is ({letter})."):
        assert choose(text, options) == choose(text, options, lenient=True) == letter


@given(options=choices, text=st.text())
def test_the_readings_agree_if_the_strict_one_finds_a_choice(options, text):
    letters = {*ascii_uppercase[: len(options)], None}
    strict, lenient = choose(text, options), choose(text, options, lenient=True)
    assert {strict, lenient} <= letters
    assert strict in (None, lenient)


@given(options=choices, data=st.data())
def test_leniently_any_text_that_shares_a_letter_with_a_choice_makes_one(options, data):
    assert choose(data.draw(st.sampled_from(options)).strip()[0] * 2, options, lenient=True) is not None


@pytest.mark.parametrize("answer", ["A", "C"])
@pytest.mark.parametrize("lenient", [False, True])
def test_choices_with_the_same_text_are_equally_right(answer, lenient):
    asked = query(answer, choices=("Iron", "Lead", "Iron"))
    for text in ("iron", "(A)", "(C)", "The answer is (C)"):
        assert is_right(asked, text, lenient), text
    assert not is_right(asked, "(B)", lenient)
