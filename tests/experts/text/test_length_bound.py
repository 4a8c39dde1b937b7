"""For which tokenizers the length of a text tells how few tokens it can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from experts.text.length_bound import COMPOSED_CHARS, max_visible_chars, num_visible_chars
from tests.tiny import tokenizers as tiny_tokenizers

LONGEST = len("<|im_end|><|im_start|>")


def byte_level() -> Tokenizer:
    return tiny_tokenizers.byte_level().backend_tokenizer


def test_a_token_stands_for_no_more_characters_than_the_longest_token_has():
    assert max_visible_chars(byte_level()) == LONGEST
    assert max_visible_chars(tiny_tokenizers.sentencepiece_like().backend_tokenizer) == LONGEST
    assert max_visible_chars(tiny_tokenizers.gemma_like(3).backend_tokenizer) == LONGEST


def test_characters_may_be_composed_before_they_are_counted():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    assert max_visible_chars(tokenizer) == COMPOSED_CHARS * LONGEST


@pytest.mark.parametrize(
    "stage",
    [
        normalizers.StripAccents(),
        normalizers.Replace(Regex("x+"), "x"),
        normalizers.Replace("ab", "a"),
        pre_tokenizers.Split("x", "removed"),
        pre_tokenizers.CharDelimiterSplit("x"),
    ],
)
def test_a_tokenizer_that_may_drop_characters_has_no_bound(stage):
    tokenizer = byte_level()
    if isinstance(stage, normalizers.Normalizer):
        tokenizer.normalizer = stage
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([stage, tokenizer.pre_tokenizer])
    assert max_visible_chars(tokenizer) is None


def test_a_tokenizer_with_one_token_for_unknown_text_has_no_bound():
    vocabulary = {"<unk>": 0, "a": 1}
    assert max_visible_chars(Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))) is None
    fused = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    assert max_visible_chars(Tokenizer(fused)) is None


@given(text=st.text())
def test_normalising_shrinks_no_text_by_more_than_the_bound_allows(text):
    for normalizer in (normalizers.NFC(), normalizers.NFKC()):
        normalised = normalizer.normalize_str(text)
        assert num_visible_chars(normalised) * COMPOSED_CHARS >= num_visible_chars(text)
