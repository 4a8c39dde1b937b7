"""What a chat template finds in message text that spells a control token, and what stays guarded."""

import pytest

from experts.text.guarded_text import GuardedText

CUT = "\U00100000"
SPLIT = f"<{CUT}/think>"


def guard(text: str) -> str:
    return text.replace("</think>", SPLIT)


@pytest.fixture
def text() -> GuardedText:
    return GuardedText(guard("why\n</think>\n\nso </think> it is"), guard)


def test_a_spelling_is_found_although_a_sentinel_splits_it(text):
    assert "</think>" in text
    assert "</think>" not in text[:3]
    assert "think" in text


def test_parts_are_cut_at_the_spelling_and_can_be_trimmed(text):
    assert text.split("</think>") == ["why\n", "\n\nso ", " it is"]
    assert text.split("</think>", 1)[-1].lstrip("\n") == f"so {SPLIT} it is"
    assert text.rsplit("</think>", 1)[0].rstrip() == guard("why\n</think>\n\nso")
    assert text.split() == ["why", SPLIT, "so", SPLIT, "it", "is"]
    assert text.partition("</think>") == ("why\n", SPLIT, guard("\n\nso </think> it is"))
    assert text.rpartition("</think>")[2].strip() == "it is"
    assert text.replace("</think>", "").strip() == "why\n\n\nso  it is"


def test_what_is_left_is_still_guarded_and_still_found(text):
    for part in (text.split("</think>", 1)[-1], text.strip(), text[4:], "x" + text, text + "x"):
        assert "</think>" in part
        assert "</think>" not in str(part)


def test_other_methods_see_the_sentinel(text):
    assert text.find("</think>") == -1
    assert not text[4:].startswith("</think>")
