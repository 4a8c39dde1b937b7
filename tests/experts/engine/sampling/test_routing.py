"""Whether an expert may win the next token: never inside a character, nor a word that is written again."""

from __future__ import annotations

import pytest

from experts.engine.grammar.words import Words
from experts.engine.request import EngineRequest, SamplingOptions
from experts.engine.sampling.routing import RequestState
from experts.engine.sampling.rules import TokenRules
from experts.engine.sampling.token_chooser import TokenChooser

REQUEST = EngineRequest("r", allowed=("law",))


@pytest.mark.parametrize(
    "tokens",
    [
        [b"\x98", b"\x80", b"\x80", b"\xf0", b"\x9f", b"\x98", b"\x80"],
        [b"\xe4", b"\xf0", b"\x9f", b"\x98", b"\x80"],
        [b"a\xf0", b"\x9f\x98", b"", b"\x80b"],
    ],
)
def test_no_expert_wins_inside_a_character_even_after_stray_bytes(tokens):
    """Regression: after three stray bytes, the beginning of the next character was not noticed."""
    state = RequestState(REQUEST, seed=0)
    for end, data in enumerate(tokens, 1):
        state.add_token(data)
        spelled = b"".join(tokens[:end])
        begun = max(spelled.rfind(b"\xf0"), spelled.rfind(b"\xe4"))
        is_inside = begun >= 0 and end < len(tokens)
        assert state.may_hand_over is not is_inside


def test_stray_bytes_hold_no_expert_back():
    state = RequestState(REQUEST, seed=0)
    for _ in range(5):
        state.add_token(b"\x80")
        assert state.may_hand_over


def test_an_expert_wins_before_or_after_a_word_that_is_written_again_but_not_inside():
    rules = TokenRules(SamplingOptions(), (0,), (0,), 16, dropped=" Par")
    chooser = TokenChooser(rules, [], words=Words([b"", b" P", b"aris"]))
    state = RequestState(REQUEST, seed=0, chooser=chooser)
    assert state.may_hand_over
    for token_id, expected in ((1, False), (2, True)):
        chooser.add(token_id)
        state.num_steps += 1
        assert state.may_hand_over is expected
    chooser.keep_only(1)
    assert not state.may_hand_over
