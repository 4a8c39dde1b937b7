"""The lines of `etr chat`: each is a question, or a command that begins with a slash."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from rich.console import Console

from cluster.client.answer_printer import AnswerPrinter
from cluster.client.conversation import Conversation
from cluster.errors import AskError


class ChatSession:
    """Asks the questions of one conversation, and prints the answers."""

    def __init__(self, conversation: Conversation, printer: AnswerPrinter, console: Console) -> None:
        self._conversation = conversation
        self._printer = printer
        self._console = console
        self._commands: dict[str, tuple[str, Callable[[str], str]]] = {
            "/force": (
                "NAME  let this expert write each answer; no name: the meta decides",
                self._force,
            ),
            "/exclude": (
                "NAME  keep the meta from this expert too; no name: from none",
                self._exclude,
            ),
            "/system": ("TEXT  set the system message; no text: remove it", self._system),
            "/trace": ("show tokens, probabilities and times, or hide them", self._trace),
            "/clear": ("forget what was said; the other settings remain", self._clear),
            "/help": ("show this", self._help),
            "/quit": ("end; so does Ctrl-D", str),
        }

    def enter(self, line: str) -> bool:
        """Do what a line says. Returns whether the conversation goes on.

        Raises:
            AskError: there is no such command, or the question was not answered.
        """
        name, _, argument = line.rstrip().partition(" ")
        if line.startswith("/"):
            if name not in self._commands:
                raise AskError(f"there is no command '{name}'; see /help, or ask it with a blank before it")
            self._say(self._commands[name][1](argument.strip()))
        elif line.strip():
            self._answer(line.strip())
        return name != "/quit"

    def _answer(self, question: str) -> None:
        with closing(self._conversation.ask(question)) as parts:
            self._printer.print(parts)

    def _say(self, text: str) -> None:
        if text:
            self._console.print(text, style="dim", markup=False, soft_wrap=True)

    def _force(self, name: str) -> str:
        self._conversation.forced = name or None
        return f"{name} writes each answer" if name else "the meta decides"

    def _exclude(self, name: str) -> str:
        excluded = (*self._conversation.excluded, name) if name else ()
        self._conversation.excluded = tuple(dict.fromkeys(excluded))
        return f"excluded: {', '.join(self._conversation.excluded) or 'no expert'}"

    def _system(self, text: str) -> str:
        self._conversation.system = text
        return "the system message is set" if text else "there is no system message"

    def _trace(self, _: str) -> str:
        self._printer.with_trace = not self._printer.with_trace
        return "the trace is shown" if self._printer.with_trace else "the trace is hidden"

    def _clear(self, _: str) -> str:
        self._conversation.turns.clear()
        return "forgotten"

    def _help(self, _: str) -> str:
        lines = [f"{name:<10}{text}" for name, (text, _) in self._commands.items()]
        return "\n".join([*lines, "Ctrl-C stops an answer; what has arrived is kept."])
