"""The search for many words at once, compared with a search for each of them."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from experts.text.word_search import NOTHING, SLICE_CHARS, any_of, slices

words = st.lists(st.text(alphabet="ab<|.*", max_size=5), max_size=8)


@given(words=words, text=st.text(alphabet="ab<|.*", max_size=30))
@example(words=["aba", "ab", "a", "ba"], text="ababab")
@example(words=["a|b", "a.b", "a"], text="axb a|b a.b")
def test_every_occurrence_is_found_and_the_longest_where_several_begin(words, text):
    found = [match.span(1) for match in any_of(words).finditer(text)]
    expected = []
    for start in range(len(text)):
        lengths = [len(word) for word in words if word and text.startswith(word, start)]
        expected += [(start, start + max(lengths))] if lengths else []
    assert found == expected


def test_no_words_match_nothing():
    assert any_of([]) is any_of([""]) is NOTHING
    assert NOTHING.search("a") is None


def test_slices_cover_a_text_once():
    num_chars = 2 * SLICE_CHARS + 5
    assert list(slices(num_chars)) == [
        (0, SLICE_CHARS),
        (SLICE_CHARS, 2 * SLICE_CHARS),
        (2 * SLICE_CHARS, num_chars),
    ]
    assert list(slices(0)) == []
    assert list(slices(5)) == [(0, 5)]
