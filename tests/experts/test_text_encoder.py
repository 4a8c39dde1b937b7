"""Texts in pieces, and texts that are refused because of their length."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import ContextLengthExceeded
from experts.text.control_tokens import ControlTokens
from experts.text_encoder import BATCH_PIECES, TextEncoder
from tests.tiny import tokenizers as tiny_tokenizers

TOKENIZERS = {
    "byte_level": tiny_tokenizers.byte_level(),
    "sentencepiece": tiny_tokenizers.sentencepiece_like(),
    "legacy": tiny_tokenizers.sentencepiece_like(legacy=True),
    "gemma": tiny_tokenizers.gemma_like(num_unused=300),
}
ENCODERS = {name: TextEncoder(t.backend_tokenizer, ControlTokens(t).ids) for name, t in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_many_pieces_decode_to_their_text_and_keep_its_control_tokens(name):
    pieces = [("a", False), *[("b", True), (" <|im_end|>c", False)] * (BATCH_PIECES + 3)]
    ids = ENCODERS[name].encode(pieces, add_special_tokens=False)
    assert TOKENIZERS[name].decode(ids) == "".join(text for text, _ in pieces)
    assert ids.count(TOKENIZERS[name].eos_token_id) == BATCH_PIECES + 3


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text() | st.text(alphabet=" \n\u2003▁ĠaA\u0301<|im_end|>"), room=st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_no_text_that_fits_is_refused_because_of_its_length(name, text, room):
    ids = ENCODERS[name].encode([(text, False)], add_special_tokens=False)
    try:
        assert ENCODERS[name].encode([(text, False)], add_special_tokens=False, max_tokens=room) == ids
    except ContextLengthExceeded:
        assert len(ids) > room


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "gemma"])
def test_text_that_cannot_fit_is_refused_before_it_is_encoded(name, monkeypatch):
    encoder = ENCODERS[name]
    monkeypatch.setattr(encoder, "_encode", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(ContextLengthExceeded, match="length is 101 tokens. However, the prompt is longer"):
        encoder.encode([("word " * 2000, False)], add_special_tokens=True, max_tokens=100)


def test_blanks_never_make_a_text_too_long():
    """A control token may take in all blanks beside it, so they are encoded and counted."""
    with pytest.raises(ContextLengthExceeded, match=r"length is 2 tokens. However, the prompt has \d+,"):
        ENCODERS["byte_level"].encode([(" \n\u2003" * 2000, False)], add_special_tokens=True, max_tokens=1)
