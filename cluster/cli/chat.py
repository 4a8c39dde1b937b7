"""`etr ask`, `etr chat`: a question to a running cluster, or a conversation with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer

from cluster.cli import options as option
from cluster.cli.command import command_of, err, note, out
from cluster.client.answer_printer import AnswerPrinter
from cluster.client.chat import ask
from cluster.client.chat_session import ChatSession
from cluster.client.conversation import Conversation
from cluster.errors import ClusterError
from cluster.serve.connect import local_url

app = typer.Typer()
command = command_of(app)

Model = Annotated[str | None, typer.Option(help="The cluster's name, NAME/meta or NAME/EXPERT.")]


@command
def ask_(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    model: Model = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show which model wrote which part, and how long it took.")
    ] = False,
    url: option.Url = None,
) -> None:
    """Send a question to a running cluster and stream the answer."""
    messages = [{"role": "user", "content": question}]
    routing = {"trace": True} if trace else None
    printer = AnswerPrinter(out, with_names=trace, with_trace=trace)
    printer.print(ask(url or local_url(), messages, model=model, routing=routing))


@command
def chat(
    model: Model = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show tokens, probabilities and times after each answer.")
    ] = False,
    url: option.Url = None,
) -> None:
    """Talk to a running cluster. Without a terminal, each line of the input is a question."""
    is_terminal = sys.stdin.isatty() and out.is_terminal
    conversation = Conversation(url or local_url(), model, system or "")
    printer = AnswerPrinter(out, with_names=trace or is_terminal, with_trace=trace)
    session = ChatSession(conversation, printer, err)
    if is_terminal:
        _talk(session)
    else:
        all(session.enter(line) for line in sys.stdin)


def _talk(session: ChatSession) -> None:
    """An error, or Ctrl-C, ends an answer and not the conversation."""
    with suppress(ImportError):
        import readline  # noqa: F401  # `input` then has a history and can be edited
    note("/help shows the commands, Ctrl-C stops an answer, Ctrl-D ends.")
    for line in _typed_lines():
        try:
            if not session.enter(line):
                return
        except ClusterError as error:
            note(f"error: {error}")
        except KeyboardInterrupt:
            note("(stopped)")


def _typed_lines() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            out.print()
            return
        except KeyboardInterrupt:  # the line is given up
            out.print()
