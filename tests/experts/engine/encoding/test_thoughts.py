"""Where the thoughts of a model begin and end, token by token."""

from __future__ import annotations

import pytest

from experts.engine.encoding.thoughts import ThoughtMarks


@pytest.mark.parametrize(
    ("tail", "resumed", "tokens", "inside"),
    [
        ("assistant\n<think>\n", "", (), False),  # the meta decides before it begins to think
        ("assistant\n<think>\n", "", (b"hm",), True),
        ("assistant\n<think>\n", "", (b"hm", b"</thi", b"nk>"), False),
        ("assistant\n<think>\n", "hm", (), True),
        ("assistant\n<think>\n", "hm</think>", (), False),
        ("assistant\n", "", (b"<think>",), True),
        ("assistant\n", "", (b"It is",), False),
        ("assistant\n", "", (b"\xc3", b"<think>"), False),
    ],
)
def test_experts_may_take_over_before_and_after_but_not_inside(
    tail: str, resumed: str, tokens: tuple[bytes, ...], inside: bool
):
    tracker = ThoughtMarks("qwen3", tail, has_answer=False, resumed=resumed).tracker()
    for token in tokens:
        tracker.add(token)
    assert tracker.is_inside == inside
