"""The words of errors that clients read."""

from __future__ import annotations

import pickle

import pytest

from experts.errors import ContextLengthExceeded

REMEDY = "Please reduce the length of the messages."


@pytest.mark.parametrize(
    ("numbers", "excess"),
    [
        ((700, 511), "512 tokens. However, the prompt has 700, and an answer needs one more"),
        ((None, 511), "512 tokens. However, the prompt is longer"),
        ((), "exceeded by the prompt"),
    ],
)
def test_an_overflow_is_told_in_the_words_that_clients_look_for(numbers: tuple[int | None, ...], excess: str):
    error = ContextLengthExceeded(*numbers)
    assert error.message == f"This model's maximum context length is {excess}. {REMEDY}"
    assert pickle.loads(pickle.dumps(error)).message == error.message
