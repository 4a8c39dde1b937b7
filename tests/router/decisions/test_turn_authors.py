"""Who wrote the turns of conversations, as one router knows it and as it tells the others."""

from dataclasses import replace

import pytest

from router.decisions.turn_authors import TurnAuthors
from router.decoding.transcript import new_call_id
from router.prompt import Message, Prompt, ToolCall
from tests.fakes.models import GENERATION

ASKED = (Message("system", "s"), Message("user", "Write a function."))


def asks(*messages: Message, session: str = ""):
    return replace(GENERATION, prompt=Prompt(messages=messages), session=session)


def after(turn: Message, session: str = ""):
    return asks(*ASKED, turn, Message("user", "Commit it."), session=session)


def known(*, session: str = "", key: str = "") -> TurnAuthors:
    authors = TurnAuthors()
    authors.wrote(asks(*ASKED, session=session), key, "code", "def f(): ...\n")
    return authors


@pytest.mark.parametrize("text", ["def f(): ...\n", "def f(): ..."])
def test_a_turn_is_found_by_its_text_as_clients_send_it_back(text: str):
    assert known().find(after(Message("assistant", text)), "") == "code"


def test_the_same_words_after_another_question_are_another_turn():
    other = asks(Message("user", "q"), Message("assistant", "def f(): ..."), Message("user", "Commit it."))
    assert known().find(other, "") is None


def test_a_turn_is_known_only_to_the_key_that_asked():
    authors = known(key="a", session="s1")
    turn = after(Message("assistant", "def f(): ..."), session="s1")
    assert (authors.find(turn, "a"), authors.find(turn, "b")) == ("code", None)


def test_a_session_names_the_author_even_if_its_text_was_changed():
    authors = known(session="s1")
    changed = Message("assistant", "shortened")
    assert authors.find(after(changed, session="s1"), "") == "code"
    assert authors.find(after(changed, session="s2"), "") is None


def test_the_author_that_the_client_names_comes_first():
    named = Message("assistant", "def f(): ...", author="law")
    assert known(session="s1").find(after(named, session="s1"), "") == "law"


def test_a_tool_call_names_its_author():
    call = ToolCall(new_call_id("weather"), "forecast", "{}")
    turns = (Message("assistant", "", tool_calls=(call,)), Message("tool", "rain", tool_call_id=call.id))
    assert TurnAuthors().find(asks(*ASKED, *turns, Message("user", "And tomorrow?")), "") == "weather"


def test_the_last_turn_counts():
    authors = known()
    turn = Message("assistant", "def f(): ...")
    authors.wrote(asks(*ASKED, turn, Message("user", "Is it legal?")), "", "law", "Yes.")
    later = asks(*ASKED, turn, Message("user", "Is it legal?"), Message("assistant", "Yes."), ASKED[1])
    assert authors.find(later, "") == "law"


def test_another_router_learns_what_is_new_once():
    first, second = known(), TurnAuthors()
    second.learn(first.take_new())
    assert second.find(after(Message("assistant", "def f(): ...")), "") == "code"
    assert (first.take_new(), second.take_new()) == ({}, {})


def test_the_oldest_turns_are_forgotten():
    authors = TurnAuthors(max_turns=2)
    for text in ("a", "b", "c"):
        authors.wrote(asks(*ASKED), "", "code", text)
    found = [authors.find(after(Message("assistant", text)), "") for text in ("a", "b", "c")]
    assert (found, len(authors), len(authors.take_new())) == ([None, "code", "code"], 2, 2)


@pytest.mark.parametrize("prompt", [Prompt(text="q"), Prompt(messages=(Message("user", "q"),))])
def test_without_a_turn_there_is_no_author(prompt: Prompt):
    assert TurnAuthors().find(replace(GENERATION, prompt=prompt), "") is None
