"""Reads values that a model writes, JSON or Python's literals, and passes them on as JSON."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
from collections.abc import Mapping

from experts.engine.parsing.source import BLANK, Emit, Steps, TextSource, Unexpected

_HEX = frozenset("0123456789abcdefABCDEF")
_PLAIN = re.compile(r"""[^"'\\\x00-\x1f]+""")
_WORD = re.compile(r"[-+.\w]+")
_JSON_WORD = re.compile(r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_PYTHON_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_JSON_BRACKETS = {"[": "]", "{": "}"}


class JsonReader:
    """Passes on JSON as it stands, as far as it is valid. Control characters in strings, which models do
    write, become escapes.

    What it reads is passed on in pieces. All methods raise Unexpected at a character that cannot follow.
    """

    brackets: Mapping[str, str] = _JSON_BRACKETS
    quotes = '"'
    may_end_with_comma = False  # a list or an object

    def __init__(self, source: TextSource, emit: Emit) -> None:
        self._source = source
        self._emit = emit

    def value(self) -> Steps[None]:
        """Reads one value with all that is in it, and blanks before it."""
        closing: list[str] = []  # the brackets that are still to be closed, the innermost last
        is_first = yield from self._begin(closing)
        while closing:
            yield from self.blank()
            if (yield from self._source.accept(closing[-1])):
                self._emit("}" if closing.pop() == "}" else "]")
                is_first = False
            else:
                is_first = yield from self._member(closing, is_first)

    def string(self) -> Steps[None]:
        quote = yield from self._source.expect(*self.quotes)
        self._emit('"')
        while True:
            yield from self._source.run(_PLAIN, self._emit)
            char = yield from self._source.next()
            if char == quote:
                self._emit('"')
                return
            self._emit((yield from self._escape()) if char == "\\" else escaped(char))

    def blank(self) -> Steps[None]:
        yield from self._source.run(BLANK, self._emit)

    def _begin(self, closing: list[str]) -> Steps[bool]:
        """Reads a value that has no members, or the bracket that opens one which may have; True then."""
        yield from self.blank()
        char = yield from self._source.peek()
        if char and char in self.quotes:
            yield from self.string()
        elif char in self.brackets:
            closing.append(self.brackets[self._source.skip(char)])
            self._emit("{" if char == "{" else "[")
            return True
        else:
            word = yield from self._source.take(_WORD)
            if not (yield from self._source.peek()):  # the word may lack its end
                raise Unexpected
            self._emit(self._word(word))
        return False

    def _member(self, closing: list[str], is_first: bool) -> Steps[bool]:
        """Reads a comma, unless the member is the first, the key, and the beginning of the value."""
        if not is_first:
            yield from self._source.expect(",")
            if self.may_end_with_comma:
                yield from self.blank()
                if (yield from self._source.ahead((closing[-1],))):
                    return True
            self._emit(",")
        if closing[-1] == "}":
            yield from self.blank()
            yield from self.string()
            yield from self.blank()
            self._emit((yield from self._source.expect(":")))
        return (yield from self._begin(closing))

    def _word(self, word: str) -> str:
        if not _JSON_WORD.fullmatch(word):
            raise Unexpected
        return word

    def _escape(self) -> Steps[str]:
        """Reads what follows a backslash, and returns the escape in JSON."""
        char = yield from self._source.next()
        if char == "u":
            return "\\u" + (yield from self._hex(4))
        if char not in '"\\/bfnrt':
            raise Unexpected
        return "\\" + char

    def _hex(self, num_digits: int) -> Steps[str]:
        digits = ""
        while len(digits) < num_digits:
            digits += yield from self._source.next()
            if digits[-1] not in _HEX:
                raise Unexpected
        return digits


class PythonReader(JsonReader):
    """Reads Python's literals, or JSON, and passes on JSON. Tuples become lists."""

    brackets = {**_JSON_BRACKETS, "(": ")"}
    quotes = "\"'"
    may_end_with_comma = True
    _words = {"True": "true", "False": "false", "None": "null"}
    _escapes = {"'": "'", "\n": "", "a": r"\u0007", "v": r"\u000b", "0": r"\u0000"}

    def _word(self, word: str) -> str:
        if _JSON_WORD.fullmatch(word):
            return word
        if word in self._words:
            return self._words[word]
        try:
            number = ast.literal_eval(word) if _PYTHON_NUMBER.fullmatch(word) else math.nan
        except (ValueError, SyntaxError):  # such as 007
            number = math.nan
        if not math.isfinite(number):
            raise Unexpected
        return json.dumps(number)

    def _escape(self) -> Steps[str]:
        char = yield from self._source.next()
        if char in '"\\/bfnrt':
            return "\\" + char
        if char in "xu":
            return "\\u" + (yield from self._hex(2 if char == "x" else 4)).zfill(4)
        if char == "U":
            code = int((yield from self._hex(8)), 16)
            if code > sys.maxunicode:
                raise Unexpected
            return json.dumps(chr(code))[1:-1]
        return self._escapes.get(char, "\\\\" + escaped(char))


def escaped(text: str) -> str:
    """The text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
