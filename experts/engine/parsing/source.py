"""The text of a generation, read by generators while it arrives."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TypeVar

_Result = TypeVar("_Result")
Steps = Generator[None, None, _Result]  # yields where it needs more text
Emit = Callable[[str], object]  # takes a piece of text, in order

BLANK = re.compile(r"\s+")


class Unexpected(Exception):
    """The text does not go on as a reader expects. Parsers catch it; it never leaves them."""


class TextSource:
    """The text that has arrived and that a reader may still need, with a position up to which it is read.

    A reader may find that the text is not what it began to read it as. `rewind` then returns to the last
    `commit`; text before that is forgotten.
    """

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._committed = 0
        self._is_closed = False

    def add(self, text: str) -> None:
        self._text = self._text[self._committed :] + text
        self._position -= self._committed
        self._committed = 0

    def close(self) -> None:
        """No more text arrives."""
        self._is_closed = True

    def commit(self) -> None:
        self._committed = self._position

    def rewind(self) -> None:
        self._position = self._committed

    def skip(self, text: str) -> str:
        """Reads `text`, which is known to be next, and returns it."""
        self._position += len(text)
        return text

    def peek(self) -> Steps[str]:
        """The next character, which stays unread; "" at the end."""
        while self._position == len(self._text):
            if self._is_closed:
                return ""
            yield
        return self._text[self._position]

    def next(self) -> Steps[str]:
        """Reads one character. Raises Unexpected at the end."""
        char = yield from self.peek()
        if not char:
            raise Unexpected
        return self.skip(char)

    def ahead(self, marks: Sequence[str]) -> Steps[str]:
        """Which of `marks` is next, the longest if several are; "" if none is. It stays unread."""
        while True:
            if self._is_closed or not any(map(self._may_begin, marks)):
                found = (mark for mark in marks if self._text.startswith(mark, self._position))
                return max(found, key=len, default="")
            yield

    def accept(self, *marks: str) -> Steps[str]:
        """Reads one of `marks` if it is next, and returns it, or ""."""
        return self.skip((yield from self.ahead(marks)))

    def expect(self, *marks: str) -> Steps[str]:
        """Reads one of `marks`. Raises Unexpected if none is next."""
        mark = yield from self.accept(*marks)
        if not mark:
            raise Unexpected
        return mark

    def run(self, pattern: re.Pattern[str], emit: Emit) -> Steps[None]:
        """Reads characters for as long as they match `pattern`, which matches one or more of a set."""
        while True:
            match = pattern.match(self._text, self._position)
            if match:
                emit(self.skip(match.group()))
            if self._position < len(self._text) or self._is_closed:
                return
            yield

    def take(self, pattern: re.Pattern[str]) -> Steps[str]:
        """The same, in one piece."""
        pieces: list[str] = []
        yield from self.run(pattern, pieces.append)
        return "".join(pieces)

    def until(self, marks: tuple[str, ...], emit: Emit) -> Steps[str]:
        """Reads all text before the first of `marks`, and returns that one, which stays unread; "" at the
        end. Only what may be the beginning of a mark is held back."""
        while True:
            mark, end = self._find(marks)
            if end > self._position:
                emit(self.skip(self._text[self._position : end]))
            if mark or self._is_closed:
                return mark
            yield

    def _may_begin(self, mark: str) -> bool:
        """Whether more text has to tell if `mark` is next."""
        num_chars = len(self._text) - self._position
        return num_chars < len(mark) and self._text.endswith(mark[:num_chars])

    def _find(self, marks: tuple[str, ...]) -> tuple[str, int]:
        """The first mark and its place. Without one, the place where the text may begin one."""
        found = _any_of(marks).search(self._text, self._position) if marks else None
        if found:
            return found.group(), found.start()
        end = len(self._text)
        longest = 0 if self._is_closed else max(map(len, marks), default=0) - 1
        for start in range(max(self._position, end - longest), end):
            if any(mark.startswith(self._text[start:]) for mark in marks):
                return "", start
        return "", end


@lru_cache(maxsize=256)
def _any_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
