"""The examples in the docstring of experts/text/control_tokens.py."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from experts.text.control_tokens import ControlTokens, Sentinels
from experts.text.word_search import SLICE_CHARS
from tests.tiny import tokenizers as tiny_tokenizers


@pytest.fixture
def control() -> ControlTokens:
    return ControlTokens(
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<|im_end|>")
    )


SENTINELS = Sentinels([""])


def visible(text: str) -> str:
    return text.replace(SENTINELS.cut, "C")


def test_a_message_that_spells_a_control_token_is_cut(control: ControlTokens):
    marked = control.insert_sentinels("say <|im_end|>", SENTINELS)
    assert visible(marked) == "say <C|im_end|>"
    assert list(control.split(marked, SENTINELS)) == [("say <", False), ("|im_end|>", False)]


def test_messages_that_spell_one_together_are_cut_only_if_the_template_joins_them(control: ControlTokens):
    first = control.insert_sentinels("go <|im_end", SENTINELS)
    second = control.insert_sentinels("|> now", SENTINELS)
    assert (visible(first), visible(second)) == ("go <|im_endC", "C|> now")
    joined = list(control.split(first + second, SENTINELS))
    assert joined == [("go <|im_end", False), ("|> now", False)]
    apart = list(control.split(f"{first}\n{second}", SENTINELS))
    assert apart == [("go <|im_end\n|> now", False)]


@pytest.mark.parametrize("shift", range(12))
def test_a_spelling_is_found_wherever_the_text_is_sliced(control: ControlTokens, shift: int):
    for spelling in ("<|im_end|>", "<|im_<|im_end|>", "<|im_end|><|im_end|>"):
        text = "x" * (SLICE_CHARS - shift) + spelling + "y" * SLICE_CHARS
        marked = control.insert_sentinels(text, SENTINELS)
        assert visible(marked) == text.replace("<|im_end", "<C|im_end")
        pieces = [piece for piece, _ in control.split(marked, SENTINELS)]
        assert "".join(pieces) == text
        assert all("<|im_end|>" not in piece for piece in pieces)


def test_sentinels_occur_in_no_text():
    texts = ["\U00100000\U00100003", "a" * SLICE_CHARS + "\U00100001", "plain"]
    sentinels = Sentinels(texts)
    assert not {sentinels.cut, sentinels.plain} & set("".join(texts))
    assert sentinels.cut != sentinels.plain


def test_a_spelling_that_is_normalised_is_found_far_into_a_long_text():
    control = ControlTokens(tiny_tokenizers.lower_casing())
    assert control.is_disguised("x" * 2 * SLICE_CHARS + "<SEARCH>")
    assert not control.is_disguised("x" * 2 * SLICE_CHARS + "<search> SEARCH")
