"""Bytes of tokens, and texts that end inside a character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from experts.text.decoder import TokenDecoder, continues, unfinished
from tests.tiny import tokenizers as tiny_tokenizers

BACKENDS = {
    make.__name__: make().backend_tokenizer for make in (tiny_tokenizers.byte_level, tiny_tokenizers.torn)
}


@pytest.mark.parametrize("name", BACKENDS)
@given(text=st.text(max_size=10))
def test_the_bytes_of_a_byte_level_tokenizer_are_the_text(name, text):
    ids = BACKENDS[name].encode(text, add_special_tokens=False).ids
    assert b"".join(map(TokenDecoder(BACKENDS[name]).bytes_of, ids)).decode() == text


def test_special_tokens_and_ids_without_a_token_have_no_bytes():
    tokenizer = tiny_tokenizers.byte_level()
    decoder = TokenDecoder(tokenizer.backend_tokenizer)
    assert decoder.bytes_of(tokenizer.eos_token_id) == b""
    assert decoder.bytes_of(len(tokenizer) + 5) == b""
    tool_id = tokenizer.get_vocab()["<tool>"]
    assert decoder.bytes_of(tool_id) == b"<tool>"


def test_a_tokenizer_without_a_decoder_spells_its_tokens():
    decoder = TokenDecoder(Tokenizer(models.WordLevel({"é": 0, "<0x41>": 1}, unk_token="é")))
    assert (decoder.bytes_of(0), decoder.bytes_of(1)) == ("é".encode(), b"<0x41>")
    assert decoder.is_bridge(0)


@given(text=st.text(min_size=1), num_bytes=st.integers(0, 3))
def test_only_the_beginning_of_a_character_is_unfinished(text, num_bytes):
    last = text[-1].encode()
    assert unfinished(text.encode()) == b""
    cut = last[:num_bytes] if num_bytes < len(last) else b""
    assert unfinished(text.encode() + cut) == cut
    assert all(continues(last[:n], last[n:]) for n in range(1, len(last)))


@pytest.mark.parametrize(
    "stray", [b"\x80", b"\xc0", b"\xff", b"\xe4A", b"\xe0\x80", b"\xf4\x90", b"\xf0\x9f\x98A"]
)
def test_bytes_that_no_character_begins_with_are_finished(stray):
    assert unfinished(stray) == b""


def test_a_byte_that_begins_another_character_continues_none():
    assert not continues(b"\xe4", b"\xf0")
    assert not continues(b"\xe4\xbd", b"A")
    assert unfinished(b"\xe4\xf0") == b"\xf0"


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece_like", "gemma_like"])
def test_chosen_special_tokens_have_text_if_they_are_shown(name):
    tokenizer = getattr(tiny_tokenizers, name)()
    decoder = TokenDecoder(tokenizer.backend_tokenizer)
    shown = decoder.showing({"[INST]", "<no such token>"})
    ids = tokenizer("[INST] ab<|im_end|>☃ c[/INST]", add_special_tokens=False)["input_ids"]
    assert shown.decode(ids).replace(" ", "") == "[INST]abc"
    assert shown.bytes_of(ids[0]) == b"[INST]"
    assert decoder.bytes_of(ids[0]) == shown.bytes_of(ids[-1]) == b""
    hidden = [token_id for token_id in ids if token_id != ids[0]]
    assert decoder.decode(ids) == decoder.decode(hidden) == shown.decode(hidden)
