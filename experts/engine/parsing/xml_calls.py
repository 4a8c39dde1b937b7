"""Tool calls that have a tag for each parameter, with its value as plain text."""

from __future__ import annotations

from dataclasses import dataclass

from experts.engine.parsing.call_format import NAME, CallFormat, CallReader
from experts.engine.parsing.source import BLANK, Steps, Unexpected
from experts.engine.parsing.values import escaped


@dataclass(frozen=True, kw_only=True)
class XmlCalls(CallFormat):
    """After a mark stands the name of a function, then its parameters. Their values become JSON of the types
    that the tool declares; strings are passed on while they are written.

    Attributes:
        before_name: The mark before the name; "" if it follows the one that begins a call.
        after_name: The mark after the name; "" if there is none.
        before_key: The mark before a parameter's name.
        after_key: The mark after it.
        before_value: A mark between that and the value; "" if there is none.
        after_value: The mark after a value, which some models leave out.
        function_end: The mark after the last parameter.
        has_lines: Values stand on lines of their own, whose line breaks do not belong to them.
    """

    before_key: str
    after_key: str
    after_value: str
    function_end: str
    before_name: str = ""
    after_name: str = ""
    before_value: str = ""
    has_lines: bool = False

    def calls(self, mark: str, reader: CallReader) -> Steps[None]:
        source, sink = reader.source, reader.sink
        yield from source.take(BLANK)
        if self.before_name not in ("", mark):
            yield from source.expect(self.before_name)
        name = self.known((yield from source.take(NAME)), mark, reader)
        if self.after_name:
            yield from source.expect(self.after_name)
        yield from source.take(BLANK)
        if not (yield from source.ahead((self.before_key, self.function_end, *self.ends))):
            raise Unexpected
        sink.begin_call(name)
        sink.arguments("{")
        yield from self._parameters(name, reader)
        if (yield from source.ahead((self.function_end, *self.ends, *self.begins))):
            sink.arguments("}")
            yield from source.accept(self.function_end)

    def _parameters(self, name: str, reader: CallReader) -> Steps[None]:
        source, sink = reader.source, reader.sink
        separator = ""
        while (yield from source.accept(self.before_key)):
            pieces: list[str] = []
            mark = yield from source.until((self.after_key,), pieces.append)
            if not mark:
                return
            source.skip(mark)
            key = "".join(pieces).strip()
            sink.arguments(f'{separator}"{escaped(key)}": ')
            yield from self._value(name, key, reader)
            yield from source.take(BLANK)
            yield from source.accept(self.after_value)
            yield from source.take(BLANK)
            separator = ", "

    def _value(self, name: str, key: str, reader: CallReader) -> Steps[None]:
        source, sink = reader.source, reader.sink
        if self.before_value:
            yield from source.take(BLANK)
            yield from source.accept(self.before_value)
        if self.has_lines:
            yield from source.accept("\n")
        if not reader.tools.is_text(name, key):
            pieces: list[str] = []
            if (yield from source.until(self._value_ends, pieces.append)):
                sink.arguments(reader.tools.to_json(name, key, "".join(pieces)))
            return
        sink.arguments('"')
        if (yield from source.until(self._value_ends, lambda piece: sink.arguments(escaped(piece)))):
            sink.arguments('"')

    @property
    def _value_ends(self) -> tuple[str, ...]:
        """The mark after a value, and those that can only stand after it."""
        marks = (self.after_value, self.before_key, self.function_end, *self.ends)
        return (*marks, *(f"\n{mark}" for mark in marks)) if self.has_lines else marks
