"""Whether an expert may win the next token: never inside a character."""

from __future__ import annotations

import pytest

from experts.engine.request import EngineRequest
from experts.engine.sampling.routing import RequestState

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
