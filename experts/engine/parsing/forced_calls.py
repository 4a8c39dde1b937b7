"""Calls that a request forces: a grammar makes every model write them in the same way."""

from __future__ import annotations

from experts.engine.parsing.call_format import CallReader
from experts.engine.parsing.json_calls import JsonCalls
from experts.engine.parsing.output_parser import IncrementalParser
from experts.engine.parsing.source import BLANK, Steps, Unexpected
from experts.engine.parsing.tool_schemas import ToolSchemas
from experts.engine.parsing.values import JsonReader


class ForcedCallParser(IncrementalParser):
    """The text is a JSON list of `{"name": …, "parameters": …}`, or the arguments of the function `name`."""

    def __init__(self, name: str | None = None, *, is_parallel: bool = True) -> None:
        super().__init__(is_parallel=is_parallel)
        self._name = name

    def steps(self) -> Steps[None]:
        yield from self.source.take(BLANK)
        self.source.commit()
        try:
            yield from self._call(self._name) if self._name else self._list()
        except Unexpected:
            self.source.rewind()
        yield from self.source.take(BLANK)
        self.source.commit()
        yield from self.source.until((), self._rest)

    def _rest(self, text: str) -> None:
        """What is left of a list that was cut between two calls, or inside one, is no text of the answer."""
        if self.sink.num_calls:
            self.source.commit()
        else:
            self.sink.text(text)

    def _list(self) -> Steps[None]:
        yield from JsonCalls(is_certain=True).read_list(
            "", CallReader(self.source, self.sink, ToolSchemas(()))
        )

    def _call(self, name: str) -> Steps[None]:
        if not (yield from self.source.ahead(("{",))):
            raise Unexpected
        self.sink.begin_call(name)
        try:
            yield from JsonReader(self.source, self.sink.arguments).value()
        except Unexpected:
            self.source.rewind()
            yield from self.source.until((), self.sink.arguments)
