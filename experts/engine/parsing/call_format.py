"""How a model writes tool calls: what all formats share."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from experts.engine.parsing.part_sink import PartSink
from experts.engine.parsing.source import Steps, TextSource, Unexpected
from experts.engine.parsing.tool_schemas import ToolSchemas

NAME = re.compile(r"[\w.:/-]+")
_CLOSERS = re.compile(r"[\s}\])]+")


@dataclass(frozen=True, slots=True)
class CallReader:
    """What calls are read from, and where they go."""

    source: TextSource
    sink: PartSink
    tools: ToolSchemas


@dataclass(frozen=True, kw_only=True)
class CallFormat:
    """The marks of a format. A subclass says what stands between them.

    Attributes:
        begins: A call may follow each of these marks, wherever it stands.
        openers: A call may begin with each of these, but only at the beginning of the answer or after a
            call. Because ordinary answers begin so too, the call must be one of a tool of the request.
        ends: Marks that may follow a call; they have no meaning of their own.
    """

    begins: tuple[str, ...] = ()
    openers: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()

    @property
    def marks(self) -> list[str]:
        """All of them, those of a subclass included."""
        values = [getattr(self, each.name) for each in fields(self)]
        marks = [mark for value in values for mark in (value if isinstance(value, tuple) else (value,))]
        return [mark for mark in marks if isinstance(mark, str)]

    def read(self, mark: str, reader: CallReader) -> Steps[bool]:
        """Reads `mark`, which is next, the calls that follow it, and the marks that end them.

        Returns:
            False if no call follows; nothing is read then.
        """
        source, num_calls = reader.source, reader.sink.num_calls
        source.commit()
        if mark in self.begins:
            source.skip(mark)
        try:
            yield from self.calls(mark, reader)
        except Unexpected:
            source.rewind()
            if reader.sink.num_calls == num_calls:
                return False
        yield from self._finish(reader)
        return True

    def calls(self, mark: str, reader: CallReader) -> Steps[None]:
        """Reads one or more calls. Raises Unexpected where something else follows."""
        raise NotImplementedError

    def known(self, name: str, mark: str, reader: CallReader) -> str:
        """The name of a call. Raises Unexpected if it has none, or not one that it may have after `mark`."""
        if not name or (mark in self.openers and name not in reader.tools.names):
            raise Unexpected
        return name

    def broken(self, reader: CallReader) -> Steps[None]:
        """Passes on the rest of a call whose arguments are not valid, for the client to see."""
        reader.source.rewind()
        yield from reader.source.until((*self.ends, *self.begins), reader.sink.arguments)

    def _finish(self, reader: CallReader) -> Steps[None]:
        """Reads the marks that end calls, and brackets before them that close nothing, which models add."""
        source = reader.source
        source.commit()
        while True:
            yield from source.take(_CLOSERS)
            if not (yield from source.accept(*self.ends)):
                break
            source.commit()
        if (yield from source.peek()):
            source.rewind()
