"""Tool calls as Python writes them: `[name(key="value"), …]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from experts.engine.parsing.call_format import NAME, CallFormat, CallReader
from experts.engine.parsing.source import BLANK, Steps, Unexpected
from experts.engine.parsing.values import PythonReader

_KEY = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class PythonicCalls(CallFormat):
    """A list of calls whose keyword arguments are literals. Its brackets may be missing after a mark."""

    def calls(self, mark: str, reader: CallReader) -> Steps[None]:
        source = reader.source
        yield from source.take(BLANK)
        is_list = yield from source.accept("[")
        is_last = False
        while not is_last:
            yield from source.take(BLANK)
            yield from self._call(mark, reader)
            yield from source.take(BLANK)
            if is_list:
                is_last = (yield from source.expect(",", "]")) == "]"
            else:
                is_last = bool((yield from source.ahead(self.ends))) or not (yield from source.peek())
        source.commit()

    def _call(self, mark: str, reader: CallReader) -> Steps[None]:
        """Reads one call. It begins as soon as a first keyword shows that it is one."""
        source, sink = reader.source, reader.sink
        name = self.known((yield from source.take(NAME)), mark, reader)
        yield from source.expect("(")
        yield from source.take(BLANK)
        key = yield from self._key(reader)
        sink.begin_call(name)
        sink.arguments("{")
        try:
            yield from self._keywords(key, reader)
        except Unexpected:
            if (yield from source.peek()):  # at the end of the text, only the end is missing
                yield from self.broken(reader)

    def _keywords(self, key: str, reader: CallReader) -> Steps[None]:
        source, sink = reader.source, reader.sink
        separator = ""
        while key:
            sink.arguments(f'{separator}"{key}": ')
            yield from PythonReader(source, sink.arguments).value()
            yield from source.take(BLANK)
            if (yield from source.ahead((",",))):
                source.skip(",")
                yield from source.take(BLANK)
            elif not (yield from source.ahead((")",))):
                raise Unexpected
            key = yield from self._key(reader)
            separator = ", "
        sink.arguments("}")

    def _key(self, reader: CallReader) -> Steps[str]:
        """Reads the next keyword with its `=`, or the closing parenthesis; "" then."""
        source = reader.source
        if (yield from source.accept(")")):
            return ""
        key = yield from source.take(_KEY)
        yield from source.take(BLANK)
        yield from source.expect("=")
        if not key:
            raise Unexpected
        return key
