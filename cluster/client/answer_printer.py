"""Prints an answer while it arrives: its text alone, or with the name of each author beside it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from cluster.client.chat import AnswerPart, AnswerTrace
from cluster.client.wrapped_text import WrappedText

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
NAME_CELLS = 16
INDENT = NAME_CELLS + 2
MIN_TEXT_CELLS = 20
# A model could otherwise control the terminal.
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\N{REPLACEMENT CHARACTER}")
_HARMLESS = {**_CONTROLS, ord("\n"): "\n", ord("\t"): "\t", ord("\r"): None}


class AnswerPrinter:
    """Prints answers to one console. An author keeps its colour.

    Attributes:
        with_names: whether the authors stand in a column beside the text, and the thoughts are printed too.
        with_trace: whether the trace follows.
    """

    def __init__(self, console: Console, *, with_names: bool, with_trace: bool) -> None:
        self.with_names = with_names
        self.with_trace = with_trace
        self._console = console
        self._colours: dict[str, str] = {}

    def print(self, parts: Iterable[AnswerPart | AnswerTrace]) -> None:
        """Print the parts as they arrive. A line that has begun is ended, however the answer ends."""
        answer = _AnswerInRows(self) if self.with_names else _PlainAnswer(self)
        trace: AnswerTrace | None = None
        try:
            for part in parts:
                if isinstance(part, AnswerTrace):
                    trace = part
                else:
                    answer.add(part)
            answer.complete()
        finally:
            answer.end()
        if trace and self.with_trace:
            self._print_trace(trace)

    def write(self, text: str, style: str = "") -> None:
        """Print text as it is, without an end of line; on a terminal, without control characters."""
        shown = text.translate(_HARMLESS) if self._console.is_terminal else text
        if style:
            self._console.out(shown, style=style, end="", highlight=False)
        else:  # the console would expand tabs
            self._console.file.write(shown)
            self._console.file.flush()

    def write_name(self, name: str) -> None:
        """Print a name in its column. One that is too long gets a line of its own."""
        self.write(f"{name:>{NAME_CELLS}}", f"bold {self.colour(name)}")
        self.write("  " if len(name) <= NAME_CELLS else "\n" + " " * INDENT)

    def wrapped(self, style: str) -> WrappedText:
        room = max(self._console.width - INDENT, MIN_TEXT_CELLS)
        width = room if self._console.is_terminal else None
        return WrappedText(lambda text: self.write(text, style), INDENT, width)

    def colour(self, name: str) -> str:
        return self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])

    def _print_trace(self, trace: AnswerTrace) -> None:
        self.write("\n")
        for span in trace.spans:
            chosen = "" if span.probability is None else f", chosen with probability {span.probability:.2f}"
            tokens = "1 token" if span.num_tokens == 1 else f"{span.num_tokens} tokens"
            self.write_name(span.model)
            self.write(f"{tokens}{chosen}\n", "dim")
        begun = "" if trace.first_text_ms is None else f"first text after {trace.first_text_ms:.0f} ms, "
        self.write(f"{'':{INDENT}}{begun}end after {trace.total_ms:.0f} ms\n", "dim")


class _PlainAnswer:
    """The text alone, as it was sent."""

    def __init__(self, printer: AnswerPrinter) -> None:
        self._printer = printer
        self._has_line = False

    def add(self, part: AnswerPart) -> None:
        if not part.is_thought:
            self._has_line = True
            self._printer.write(part.text)

    def complete(self) -> None:
        """An answer without text is an empty line."""
        self._has_line = True

    def end(self) -> None:
        if self._has_line:
            self._printer.write("\n")


class _AnswerInRows:
    """A row for each part of an author, with the name at its beginning."""

    def __init__(self, printer: AnswerPrinter) -> None:
        self._printer = printer
        self._row: WrappedText | None = None
        self._author: tuple[str, bool] | None = None

    def add(self, part: AnswerPart) -> None:
        author = (part.writer or "unknown", part.is_thought)
        if self._row is None or author != self._author:
            self.end()
            self._author = author
            self._row = self._begin(*author)
        self._row.add(part.text)

    def complete(self) -> None:
        pass

    def end(self) -> None:
        if self._row is not None:
            self._row.flush()
            self._printer.write("\n")

    def _begin(self, name: str, is_thought: bool) -> WrappedText:
        self._printer.write_name(name)
        return self._printer.wrapped("dim italic" if is_thought else self._printer.colour(name))
