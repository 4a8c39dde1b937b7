"""What a model's tokenizer makes of requests, and when the token ids of two models mean the same."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.request import ChatOptions, EngineRequest, Resumed
from experts.prompt import PromptRenderer
from experts.text.decoder import TokenDecoder
from tests.tiny.tokenizers import TIGHT, byte_level, sentencepiece_like


def model_tokenizer(tokenizer: PreTrainedTokenizerFast, window: int = 512) -> ModelTokenizer:
    decoder = TokenDecoder(tokenizer.backend_tokenizer)
    return ModelTokenizer("meta", PromptRenderer(tokenizer), window, frozenset({0}), decoder, "fingerprint")


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> str:
    return model_tokenizer(tokenizer).vocabulary


def test_a_vocabulary_is_the_same_with_another_template_and_not_with_other_tokens():
    assert vocabulary(byte_level()) == vocabulary(byte_level(TIGHT))
    assert (
        len({vocabulary(byte_level()), vocabulary(byte_level(added=())), vocabulary(sentencepiece_like())})
        == 3
    )


def test_a_truncated_prompt_leaves_room_for_the_whole_answer():
    tokenizer = model_tokenizer(byte_level(), window=32)
    fits = ChatOptions(truncate_prompt_tokens=-1)
    begun = Resumed("abc", tuple(byte_level()("abc")["input_ids"]), "fingerprint")
    num_begun = len(begun.ids)
    for max_tokens, resumed, num_prompt in ((12, None, 20), (None, None, 31), (99, None, 1), (12, begun, 20)):
        position = num_begun if resumed else 0
        left = None if max_tokens is None else max_tokens - position
        request = EngineRequest(
            "r", text="so long " * 9, chat=fits, max_tokens=left, resumed=resumed, position=position
        )
        assert len(tokenizer.encode(request).prompt) == num_prompt + position
