"""When the token ids of two models mean the same."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from experts.engine.encoding.tokenization import ModelTokenizer
from experts.prompt import PromptRenderer
from experts.text.decoder import TokenDecoder
from tests.tiny.tokenizers import TIGHT, byte_level, sentencepiece_like


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> str:
    decoder = TokenDecoder(tokenizer.backend_tokenizer)
    renderer = PromptRenderer(tokenizer)
    return ModelTokenizer("meta", renderer, 512, frozenset({0}), decoder, "fingerprint").vocabulary


def test_a_vocabulary_is_the_same_with_another_template_and_not_with_other_tokens():
    assert vocabulary(byte_level()) == vocabulary(byte_level(TIGHT))
    assert (
        len({vocabulary(byte_level()), vocabulary(byte_level(added=())), vocabulary(sentencepiece_like())})
        == 3
    )
