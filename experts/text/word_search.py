"""Finds words in long texts without keeping other threads from running."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from os.path import commonprefix

SLICE_CHARS = 8192  # searched in less than a millisecond, even if it consists of nothing but words
REST_S = 0.0005
NOTHING = re.compile("(?!)()")


def slices(num_chars: int) -> Iterator[tuple[int, int]]:
    """(start, end) of consecutive parts of a text.

    The thread sleeps between two parts. A search holds the interpreter lock, and without a sleep the steps of
    a model in another thread, which take the lock hundreds of times each, would wait for it every time.
    """
    for start in range(0, num_chars, SLICE_CHARS):
        if start:
            time.sleep(REST_S)
        yield start, min(start + SLICE_CHARS, num_chars)


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches every occurrence as group 1, overlapping ones too; at each position the longest.

    Its time depends on the text and not on the number of words: the pattern is a tree of their beginnings.
    """
    unique = sorted(set(words) - {""})
    return re.compile(f"(?=({_tree(unique)}))") if unique else NOTHING


def _tree(words: list[str]) -> str:
    """A pattern for the longest of `words`, which are sorted and differ."""
    beginning = commonprefix([words[0], words[-1]])
    is_word = words[0] == beginning
    rests = [word[len(beginning) :] for word in words[is_word:]]
    if not rests:
        return re.escape(beginning)
    branches = "|".join(_tree(list(group)) for _, group in groupby(rests, key=lambda rest: rest[0]))
    return f"{re.escape(beginning)}(?:{branches}){'?' if is_word else ''}"
