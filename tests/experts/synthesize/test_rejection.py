"""Texts that are no questions to learn from, and texts that only look odd."""

import pytest

from experts.synthesize.rejection import Rejection, normalised, text_rejection


@pytest.mark.parametrize(
    "text",
    [
        "What is 1000000 in Roman numerals?",
        "Decode -.- .... . and ..... for me",
        "That is very, very, very good",
        "为什么 天空是蓝色的呢？",
        "Is 👩‍👩‍👧 one emoji?",
        "first line\n\tsecond line",
        "ab cdefg",
        "a " + "bcdefghi" * 3 + "x" * 15,
        " ".join(str(number) for number in range(100)),
    ],
)
def test_a_text_that_only_looks_odd_is_kept(text):
    assert text_rejection(text) is None


@pytest.mark.parametrize(
    "text", [None, "", "Why?", "MCMXCIV", "OneLongWord", "a b c d", " ".join(map(str, range(200)))]
)
def test_a_text_without_an_end_or_of_no_usual_length_is_rejected(text):
    assert text_rejection(text) is Rejection.LENGTH


@pytest.mark.parametrize(
    "text",
    [
        "no no no no no no no no",
        "what is " + "x" * 16,
        "Say " + "the same sentence. " * 4,
        "a line\n" + "-\n" * 8,
        "a null \0 in it",
        "half a character \ufffd",
        "an unassigned one \U000e0fff",
    ],
)
def test_a_text_in_a_loop_or_with_control_characters_is_rejected(text):
    assert text_rejection(text) is Rejection.GARBLED


def test_texts_are_the_same_without_regard_to_case_blanks_and_compatible_characters():
    assert normalised("What  is\nＩＲＯＮ?") == normalised("what is iron?")
    assert normalised("what is iron?") != normalised("what is neon?")
