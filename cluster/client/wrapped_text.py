"""Text that arrives piece by piece, wrapped into a column of a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from rich.cells import cell_len, chop_cells

# Chinese and Japanese text has no blanks: a line may end after each character, but not before a mark.
_WIDE = r"\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003fffd"
_MARKS = "、。，．！？：；）」』】〉》"
# Long words come in pieces, so that no more than one is read again with each text that arrives.
_PIECE = re.compile(rf"\n|[^\S\n]+|[{_WIDE}][{_MARKS}]*|[^\s{_WIDE}]{{1,256}}")
_FENCE = re.compile(r"\s*(```[^`]*|~~~.*)")
_BULLET = re.compile(r"[-*+]|\d{1,3}[.)]")
_TAB = 4


class WrappedText:
    """Writes words as soon as they are complete. Lines of code are cut at the edge and keep their blanks.
    The further lines of a list item are indented as its text.

    Blank lines and blanks at the start and at the end are left out.

    Args:
        write: gets the next text for the terminal.
        indent: blanks before each line but the first, whose beginning the caller has written.
        width: terminal cells of a line beside the indent, at least 2; None does not wrap.
    """

    def __init__(self, write: Callable[[str], None], indent: int, width: int | None) -> None:
        self._write = write
        self._indent = indent
        self._width = width
        self._held = ""  # a word that may go on
        self._line = ""  # of the text, as opposed to the terminal
        self._in_code = False
        self._is_empty = True
        self._num_newlines = 0  # before the next word, as is the gap
        self._gap = 0
        self._column = 0
        self._hang = 0  # before the further lines on the terminal of a line of the text

    def add(self, text: str) -> None:
        pieces = _PIECE.findall(self._held + text)
        self._held = pieces.pop() if pieces else ""
        for piece in pieces:
            self._put(piece)

    def flush(self) -> None:
        """Write the word that is held back."""
        held, self._held = self._held, ""
        if held:
            self._put(held)

    def _put(self, piece: str) -> None:
        if piece == "\n":
            self._end_line()
            return
        self._line += piece
        if piece.isspace():
            self._gap += len(piece.expandtabs(_TAB))
        else:
            self._put_word(piece)

    def _end_line(self) -> None:
        self._in_code ^= _FENCE.fullmatch(self._line) is not None
        self._line = ""
        self._gap = 0
        self._num_newlines += 1

    def _put_word(self, word: str) -> None:
        if self._is_empty or self._num_newlines:
            self._begin_line(word)
        elif self._column and not self._in_code and self._gap + cell_len(word) > self._room():
            self._break()
            self._gap = self._hang
        self._emit(" " * self._gap + word)
        self._is_empty = False
        self._num_newlines = self._gap = 0

    def _begin_line(self, word: str) -> None:
        if self._is_empty:
            self._gap = 0
        else:
            self._break(self._num_newlines)
        bullet = len(word) + 1 if _BULLET.fullmatch(word) else 0
        self._hang = min(self._gap + bullet, self._room() // 2)

    def _emit(self, text: str) -> None:
        while cell_len(text) > self._room():
            head = chop_cells(text, self._room())[0] if self._room() > 1 else ""
            self._write(head)
            text = text[len(head) :]
            self._break()
        self._write(text)
        self._column += cell_len(text)

    def _break(self, num_newlines: int = 1) -> None:
        self._write("\n" * num_newlines + " " * self._indent)
        self._column = 0

    def _room(self) -> int:
        return sys.maxsize if self._width is None else self._width - self._column
