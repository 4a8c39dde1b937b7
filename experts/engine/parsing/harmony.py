"""The format of gpt-oss, harmony: messages whose headers say what is in them."""

from __future__ import annotations

import re

from experts.engine.parsing.output_parser import IncrementalParser
from experts.engine.parsing.source import BLANK, Emit, Steps, Unexpected
from experts.engine.parsing.tool_schemas import ToolSchemas
from experts.engine.parsing.values import JsonReader

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
TOKENS = frozenset({START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS})
_TURN = f"{START}assistant"
_WORD = re.compile(r"[\w./+-]+")
_RECIPIENT = re.compile(r"[^\s<]+")


class HarmonyParser(IncrementalParser):
    """Messages in the channel `analysis` are thoughts, those to a function are calls, and the others text.

    A header is `<|start|>assistant to=functions.name<|channel|>commentary <|constrain|>json<|message|>`. Its
    beginning may stand in the prompt, and the recipient may also follow the channel.
    """

    def __init__(self, tools: ToolSchemas, prompt_tail: str = "", *, is_parallel: bool = True) -> None:
        """`tools` are empty if calls are not sought. `prompt_tail` ends inside the open turn."""
        super().__init__(is_parallel=is_parallel)
        self._tools = tools
        _, turn, header = prompt_tail.rpartition(_TURN)
        self.feed(header if turn else "")

    def steps(self) -> Steps[None]:
        while (yield from self.source.peek()):
            try:
                channel, recipient = yield from self._header()
            except Unexpected:
                self.source.rewind()
                self.sink.text((yield from self.source.accept(START, CHANNEL)))
                channel = recipient = ""
            self.source.commit()
            yield from self._body(channel, recipient)
            yield from self.source.accept(*ENDS)
            self.source.commit()
            self.in_reasoning = False

    def _header(self) -> Steps[tuple[str, str]]:
        """Reads a header, without what the prompt may hold of it. Returns the channel and the recipient."""
        source, channel = self.source, ""
        if (yield from source.accept(START)):
            yield from source.take(_WORD)
        recipient = yield from self._recipient()
        if (yield from source.accept(CHANNEL)):
            channel = yield from source.take(_WORD)
            recipient = (yield from self._recipient()) or recipient
            yield from source.accept(CONSTRAIN)
            yield from source.take(_WORD)
            yield from source.take(BLANK)
        yield from source.expect(MESSAGE)
        return channel, recipient

    def _recipient(self) -> Steps[str]:
        yield from self.source.take(BLANK)
        if not (yield from self.source.accept("to=")):
            return ""
        recipient = yield from self.source.take(_RECIPIENT)
        yield from self.source.take(BLANK)
        return recipient

    def _body(self, channel: str, recipient: str) -> Steps[None]:
        name = recipient.removeprefix("functions.")
        if self._tools.names and (name != recipient or name in self._tools.names):
            self.sink.begin_call(name)
            yield from self._arguments()
            return
        self.in_reasoning = channel == "analysis"
        yield from self._until_end(self.sink.reasoning if self.in_reasoning else self.sink.text)

    def _arguments(self) -> Steps[None]:
        yield from self.source.take(BLANK)
        if (yield from self.source.ahead(ENDS)):
            self.sink.arguments("{}")
        try:
            yield from JsonReader(self.source, self.sink.arguments).value()
            yield from self.source.take(BLANK)
        except Unexpected:
            self.source.rewind()
        yield from self._until_end(self.sink.arguments)

    def _until_end(self, emit: Emit) -> Steps[None]:
        yield from self.source.until((START, CHANNEL, *ENDS), emit)
