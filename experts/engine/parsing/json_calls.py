"""Tool calls whose arguments are JSON: `{"name": …, "arguments": {…}}`, or a name with arguments after it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from experts.engine.parsing.call_format import NAME, CallFormat, CallReader
from experts.engine.parsing.source import BLANK, Steps, TextSource, Unexpected
from experts.engine.parsing.values import JsonReader

_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, kw_only=True)
class JsonCalls(CallFormat):
    """After a mark stands one call as an object, or a list of such objects.

    Attributes:
        is_named: A name may also stand outside of JSON, with the arguments after it.
        before_name: Marks that may stand before such a name.
        after_name: Marks that may stand between the name and the arguments. An identifier may follow each.
        is_certain: A grammar leaves nothing but calls, so one begins with its name, even if it is cut there.
    """

    is_named: bool = False
    before_name: tuple[str, ...] = ()
    after_name: tuple[str, ...] = ()
    is_certain: bool = False

    def calls(self, mark: str, reader: CallReader) -> Steps[None]:
        source = reader.source
        yield from source.take(BLANK)
        if (yield from source.accept(*self.begins)):  # the mark of a list, and that of its first call
            yield from source.take(BLANK)
        first = yield from source.peek()
        if first == "[":
            yield from self.read_list(mark, reader)
        elif first == "{" or not self.is_named:
            yield from self._object(mark, reader)
        else:
            yield from self._named(mark, reader)

    def read_list(self, mark: str, reader: CallReader) -> Steps[None]:
        source = reader.source
        separator = yield from source.expect("[")
        while separator != "]":
            yield from source.take(BLANK)
            yield from self._object(mark, reader)
            yield from source.take(BLANK)
            separator = yield from source.expect(",", "]")
        source.commit()

    def _object(self, mark: str, reader: CallReader) -> Steps[None]:
        """Reads one call. It begins as soon as its name is known and its arguments begin."""
        source, call = reader.source, _Call()
        separator = yield from source.expect("{")
        while separator != "}":
            key = yield from _text(source)
            yield from source.take(BLANK)
            yield from source.expect(":")
            yield from self._member(key, call, mark, reader)
            yield from source.take(BLANK)
            separator = yield from source.expect(",", "}")
        if not call.has_begun:
            reader.sink.begin_call(self.known(call.name, mark, reader))
            reader.sink.arguments(call.arguments)
        source.commit()

    def _member(self, key: str, call: _Call, mark: str, reader: CallReader) -> Steps[None]:
        if key == "name":
            call.name = self.known((yield from _text(reader.source)), mark, reader)
            if self.is_certain:
                self._begin(call, reader)
        elif key in _ARGUMENTS and call.name and (self.is_certain or not call.has_begun):
            if not call.has_begun:
                self._begin(call, reader)
            yield from self._arguments(reader)
        else:
            value: list[str] = []
            yield from JsonReader(reader.source, value.append).value()
            if key in _ARGUMENTS:
                call.arguments = "".join(value).strip()

    def _begin(self, call: _Call, reader: CallReader) -> None:
        call.has_begun = True
        reader.sink.begin_call(call.name)

    def _named(self, mark: str, reader: CallReader) -> Steps[None]:
        source = reader.source
        yield from source.accept(*self.before_name)
        header = yield from source.take(NAME)
        name = self.known(header.removeprefix("functions.").split(":")[0], mark, reader)
        yield from source.take(BLANK)
        while (yield from source.accept(*self.after_name)):
            yield from source.take(NAME)
            yield from source.take(BLANK)
        if not (yield from source.ahead(("{",))):
            raise Unexpected
        reader.sink.begin_call(name)
        yield from self._arguments(reader)

    def _arguments(self, reader: CallReader) -> Steps[None]:
        source = reader.source
        yield from source.take(BLANK)
        source.commit()
        try:
            if (yield from source.ahead(('"',))):
                reader.sink.arguments(_unquoted((yield from _text(source))))
            else:
                yield from JsonReader(source, reader.sink.arguments).value()
        except Unexpected:
            yield from self.broken(reader)


@dataclass(slots=True)
class _Call:
    """A call while it is read; `arguments` are those that stand before its name."""

    name: str = ""
    arguments: str = "{}"
    has_begun: bool = False


def _text(source: TextSource) -> Steps[str]:
    """Reads a JSON string and returns what it stands for."""
    pieces: list[str] = []
    yield from source.take(BLANK)
    yield from JsonReader(source, pieces.append).string()
    text = str(json.loads("".join(pieces)))
    return text.encode(errors="replace").decode()  # half a surrogate pair is no character


def _unquoted(text: str) -> str:
    """Arguments that are a string as JSON: some models write their JSON once more as a string."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    return text
