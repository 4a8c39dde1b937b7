"""Which tokens of an open answer are written again."""

from __future__ import annotations

import pytest

from experts.engine.encoding.token_healing import unhealed_end
from experts.engine.grammar.words import Words
from experts.prompt import PromptRenderer
from experts.text.decoder import TokenDecoder
from tests.tiny.tokenizers import byte_level, sentencepiece_like

TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece_like()}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("before", "end"),
    [("it is", " Par"), ("it is", " "), ("it is", "\n"), ("so", " grö"), ("so", " 🙂"), ("", "Par")],
)
def test_the_end_goes_back_to_the_last_blank_or_the_beginning(name, before, end):
    tokenizer = TOKENIZERS[name]
    decoder = TokenDecoder(tokenizer.backend_tokenizer)
    ids = PromptRenderer(tokenizer).chat(({"role": "user", "content": "hello"},), before + end)
    num, text = unhealed_end(ids, before + end, decoder)
    assert text == end
    assert b"".join(map(decoder.inner_bytes, ids[-num:])) == end.encode()


def test_of_a_long_word_only_the_end_is_written_again():
    tokenizer = TOKENIZERS["byte-level"]
    text = "a long word 🙂qzqzqzq"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    num, end = unhealed_end(ids, text, TokenDecoder(tokenizer.backend_tokenizer))
    assert (num, end) == (7, "qzqzqzq")


def test_an_end_that_the_tokenizer_changed_stays_as_it_is():
    tokenizer = byte_level()
    ids = tokenizer("another", add_special_tokens=False)["input_ids"]
    assert unhealed_end(ids, "text", TokenDecoder(tokenizer.backend_tokenizer)) == (0, "")


def test_a_text_may_begin_with_tokens_longer_and_shorter_than_its_beginning():
    words = [b"", b" P", b" Paris", b" ", b"Par", b" Par", b" Pb", b"", b" p", b" Q"]
    assert sorted(Words(words).beginning(b" Par")) == [1, 2, 3, 5]
    assert sorted(Words(words).beginning(b" ")) == [1, 2, 3, 5, 6, 8, 9]
    assert Words(words).beginning(b"x") == []
