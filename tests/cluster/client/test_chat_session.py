"""A conversation with a router: what it is sent, and what the commands change."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping

import pytest
from rich.console import Console

from cluster.client.answer_printer import AnswerPrinter
from cluster.client.chat_session import ChatSession
from cluster.client.conversation import Conversation
from cluster.errors import AskError
from router.dialects.app import build_app
from router.prompt import Message
from tests.fakes.models import GONE, FakeGateway, FakeModel, hands_over, models, served, word, writes

Enter = Callable[..., str]


@pytest.fixture
def fakes() -> Mapping[str, FakeModel]:
    return models(
        meta=hands_over("roman", 0.9, "Well, "), roman=writes("2", "-propanol"), morse=writes("No.")
    )


@pytest.fixture
def conversation(fakes: Mapping[str, FakeModel]) -> Iterator[Conversation]:
    with served(build_app(FakeGateway(fakes))) as url:
        yield Conversation(url)


@pytest.fixture
def enter(conversation: Conversation) -> Enter:
    """Enter lines; returns what is printed."""
    file = io.StringIO()
    console = Console(file=file)
    printer = AnswerPrinter(console, with_names=True, with_trace=False)
    session = ChatSession(conversation, printer, console)

    def run(*lines: str) -> str:
        begin = file.tell()
        for line in lines:
            assert session.enter(f"{line}\n")
        return file.getvalue()[begin:]

    return run


def prompts(fakes: Mapping[str, FakeModel], name: str) -> list[list[Message]]:
    return [list(ask.prompt.messages or ()) for ask in fakes[name].asks]


def test_a_question_is_sent_with_all_that_was_said(enter: Enter, fakes: Mapping[str, FakeModel]):
    assert enter("/system Be brief.", "what?", "", "and now?").count("2-propanol") == 2
    first, second = ([(m.role, m.content) for m in prompt] for prompt in prompts(fakes, "meta"))
    assert first == [("system", "Be brief."), ("user", "what?")]
    assert second == [*first, ("assistant", "Well, 2-propanol"), ("user", "and now?")]


def test_an_expert_is_forced_and_excluded(enter: Enter):
    assert "           roman  2-propanol" in enter("what?")
    assert "           morse  No." in enter("/exclude roman", "/force morse", "what?")
    assert "            meta  Well, I do not know." in enter("/force", "what?")
    assert "           roman  2-propanol" in enter("/exclude", "what?")


def test_clear_forgets_what_was_said_and_keeps_the_settings(enter: Enter, fakes: Mapping[str, FakeModel]):
    enter("/force morse", "what?", "/clear", "again?")
    assert [message.content for message in prompts(fakes, "morse")[-1]] == ["again?"]


def test_the_trace_is_shown_on_request(enter: Enter):
    assert "chosen with probability 0.90" not in enter("what?")
    assert "chosen with probability 0.90" in enter("/trace", "what?")


def test_help_names_every_command(enter: Enter, conversation: Conversation):
    shown = enter("/help")
    for name in ("/force NAME", "/exclude NAME", "/system TEXT", "/trace", "/clear", "/quit"):
        assert name.split()[0] in shown
        assert name.split()[-1] in shown
    session = ChatSession(
        conversation, AnswerPrinter(Console(), with_names=True, with_trace=False), Console()
    )
    assert not session.enter("/quit\n")


def test_an_unknown_command_is_not_asked(enter: Enter, fakes: Mapping[str, FakeModel]):
    with pytest.raises(AskError, match=r"there is no command '/etc/passwd'; see /help"):
        enter("/etc/passwd what is it?")
    enter(" /etc/passwd what is it?")
    assert prompts(fakes, "meta")[0][0].content == "/etc/passwd what is it?"


def test_a_question_that_is_refused_is_forgotten(enter: Enter, conversation: Conversation):
    with pytest.raises(AskError, match=r"answers 400: .*'nobody'"):
        enter("/force nobody", "what?")
    assert conversation.turns == []


def test_what_has_arrived_of_an_answer_is_kept():
    fakes = models(meta=lambda ask: [word("Half an answer"), GONE])
    with served(build_app(FakeGateway(fakes))) as url:
        conversation = Conversation(url)
        parts = conversation.ask("what?")
        next(parts)
        parts.close()
    assert conversation.turns == [
        {"role": "user", "content": "what?"},
        {"role": "assistant", "content": "Half an answer"},
    ]
