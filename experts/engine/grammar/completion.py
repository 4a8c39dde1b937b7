"""Finds a short text that completes an answer under its grammar."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from heapq import heappop, heappush

import xgrammar

MAX_PROBES = 16384  # about 20 ms
_LETTERS = string.ascii_letters.encode()
_DIGITS = string.digits.encode()
_MARKS = string.punctuation.encode() + b" \n\t"
# A grammar that lets each of them follow is inside a text, such as a string of JSON.
_SIGNS_OF_TEXT = b"q@~ "
_MAX_MARKS = 8  # where more may follow, only these are tried
_SEPARATORS = b"-.:@"
_HIGH_BYTES = bytes(range(0x80, 0x100))  # of characters beyond ASCII
_PART_MARK = re.compile(rb"[\[\]{},:]")
_MIN_CLASS = 20  # so many letters are not the beginnings of names, but any letter


def completion(matcher: xgrammar.GrammarMatcher) -> bytes | None:
    """What completes the text that `matcher` has accepted; b"" if it is complete. None: nothing was found.

    The result is short, but not always the shortest. `matcher` stays where it is.
    """
    return _Search(matcher).result()


class _TooLong(Exception):
    """The search has tried enough."""


class _Search:
    """From short texts to longer ones.

    Two texts count as one if they are in the same place (see `_Place`) and the same may follow.
    """

    def __init__(self, matcher: xgrammar.GrammarMatcher) -> None:
        self._matcher = matcher
        self._num_probes = 0
        # By length. The moves are those after a path that was followed, and None if it is complete.
        self._heap: list[tuple[int, bool, bytes, list[bytes] | None, _Place]] = []
        self._latest: dict[tuple[object, ...], bytes] = {}  # the path that stands for the others
        self._finished: set[_Place] = set()

    def result(self) -> bytes | None:
        self._heap.append((0, False, b"", None, _place(b"")[0]))
        while self._heap:
            _, is_followed, path, moves, origin = heappop(self._heap)
            if is_followed and moves is None:
                return path
            place, length = _place(path)
            if place in self._finished:
                continue
            if not is_followed:
                try:
                    self._follow(path, origin)
                except _TooLong:
                    return None
            elif self._is_new((place, length, *(moves or [])), path):
                if place.is_after(origin):
                    self._finished.add(origin)
                for move in moves or []:
                    heappush(self._heap, (len(path) + len(move), False, path + move, None, place))
        return None

    def _is_new(self, state: tuple[object, ...], path: bytes) -> bool:
        """Of the paths to a state, the first one goes on, even if it returns there."""
        is_new = path.startswith(self._latest.get(state, path))
        if is_new:
            self._latest[state] = path
        return is_new

    def _follow(self, path: bytes, origin: _Place) -> None:
        """Go on after `path` while there is only one way, and note where that leads."""
        num_steps, move = 0, path
        try:
            while True:
                if move:
                    self._matcher.accept_string(move)
                    num_steps += 1
                moves = None if self._matcher.is_completed() else self._moves()
                if moves is None or len(moves) != 1:
                    break
                [move] = moves
                path += move
        finally:
            if num_steps:
                self._matcher.rollback(num_steps)
        heappush(self._heap, (len(path), True, path, moves, origin))

    def _moves(self) -> list[bytes]:
        """What to try next, where the text is not complete."""
        if forced := self._forced():
            return [forced]
        signs = self._following(_SIGNS_OF_TEXT)
        if b"q" in signs and (end := self._following(b'"')):
            return end  # of the string
        if len(signs) == len(_SIGNS_OF_TEXT):
            return [b"a"]
        if b"q" in signs:  # a name, an address or the like
            return self._marks() + (self._following(b"0") or [b"q"])
        closing = self._following(b'"}]')
        if b"}" in closing or b"]" in closing:
            return closing
        if closing and self._ends_string():
            return closing
        if closing:  # a string may begin, or another value
            number = self._following(_DIGITS)[:1] or self._following(b"-")
            return [*closing, *number, *self._following(b"[{ntf")]
        return self._any_moves()

    def _ends_string(self) -> bool:
        """Whether a quotation mark would end a string, not begin one."""
        self._matcher.accept_string(b'"')
        is_end = self._matcher.is_completed() or (not self._following(b"q") and self._following(b",}]:"))
        self._matcher.rollback(1)
        return bool(is_end)

    def _forced(self) -> bytes:
        """The only bytes that may follow, as far as the library says."""
        try:
            return self._matcher.find_jump_forward_string().encode()
        except UnicodeDecodeError:  # they begin inside a character
            return b""

    def _any_moves(self) -> list[bytes]:
        """Where it is not known what a byte means."""
        marks = self._marks()
        if b"," in marks:
            return [b","]
        found = marks + (self._following(_DIGITS)[:1] or self._letters())
        if len(found) > 1 and b"\\" in found:
            found.remove(b"\\")
        return found or self._following(_HIGH_BYTES)[:4]

    def _marks(self) -> list[bytes]:
        found = self._following(_MARKS)
        return found if len(found) <= _MAX_MARKS else [mark for mark in found if mark in _SEPARATORS]

    def _letters(self) -> list[bytes]:
        found = self._following(_LETTERS)
        return found[:1] if len(found) >= _MIN_CLASS else found

    def _following(self, data: bytes) -> list[bytes]:
        """The bytes of `data` that may follow."""
        self._num_probes += len(data)
        if self._num_probes > MAX_PROBES:
            raise _TooLong
        found = []
        for byte in data:
            move = bytes([byte])
            if self._matcher.accept_string(move):
                self._matcher.rollback(1)
                found.append(move)
        return found


@dataclass(frozen=True, order=True)
class _Place:
    """Which part of a JSON value a path has reached.

    Attributes:
        num_closed: The brackets that it has closed and did not open.
        parts: The part that it is in, of the value around it and of each bracket that it has left open: the
            number of it in a list, or its key in an object, so that optional members before it do not count.
    """

    num_closed: int
    parts: tuple[str, ...]

    def is_after(self, other: _Place) -> bool:
        """Whether a path from `other` to here has finished the value there."""
        if not other.parts[-1]:  # before a key
            return False
        is_inside = self.parts[: len(other.parts)] == other.parts
        return self.num_closed > other.num_closed or not is_inside


def _place(path: bytes) -> tuple[_Place, int]:
    """The place, and the number of bytes since its part began."""
    num_closed, levels, start = 0, [_Level(is_object=False)], 0
    for found in _PART_MARK.finditer(path):
        mark, level = found[0], levels[-1]
        if mark in b"[{":
            levels.append(_Level(is_object=mark == b"{"))
        elif mark in b"]}":
            levels.pop()
            if not levels:
                num_closed += 1
                levels.append(_Level(is_object=False))
        elif mark == b":":
            level.is_object, level.key = True, path[start : found.start()]
        else:
            level.num_parts, level.key = level.num_parts + 1, b""
        start = found.end()
    return _Place(num_closed, tuple(level.part for level in levels)), len(path) - start


@dataclass
class _Level:
    is_object: bool
    num_parts: int = 0
    key: bytes = b""

    @property
    def part(self) -> str:
        return self.key.decode(errors="replace") if self.is_object else str(self.num_parts)
