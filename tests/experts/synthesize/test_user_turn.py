"""A user's text is found in every template, and where it begins and ends."""

import pytest
from tokenizers import Tokenizer

from experts.errors import TemplateError
from experts.prompt import PromptRenderer
from experts.synthesize.user_turn import UserTurn
from tests.tiny.templates import FORMATS
from tests.tiny.tokenizers import byte_level, of_format, sentencepiece_like

TEXT = "What is the symbol of iron?"


def turn(name: str, system: str = "") -> UserTurn:
    return UserTurn.of(PromptRenderer(of_format(FORMATS[name])), system)


def decoded(of: UserTurn, ids: tuple[int, ...] | list[int]) -> str:
    return str(of.renderer.tokenizer.decode(list(ids)))


@pytest.mark.parametrize("name", FORMATS)
def test_the_text_stands_between_the_two_parts_of_every_familys_prompt(name):
    found = turn(name)
    prompt = found.renderer.chat([{"role": "user", "content": TEXT}])
    encoded = found.encoded(0, TEXT, 1000)
    assert encoded is not None
    assert prompt[: encoded.first] == list(found.before)
    assert decoded(found, prompt[encoded.first : len(encoded.ids)]).strip() == TEXT
    assert encoded.ids == prompt[: len(encoded.ids)]


@pytest.mark.parametrize("name", FORMATS)
def test_what_follows_the_text_in_a_prompt_ends_the_turn(name):
    found = turn(name)
    prompt = found.renderer.chat([{"role": "user", "content": TEXT}])
    assert found.text_in(decoded(found, prompt[len(found.before) :])) == TEXT
    assert found.text_in(TEXT) is None


@pytest.mark.parametrize(
    ("name", "before", "end"),
    [
        ("chatml", "<|im_start|>user\n", "<|im_end|>"),
        ("llama2", "<s>[INST]", "[/INST]"),
        (
            "smollm2",
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
            "<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>",
        ),
        ("glm4", "[gMASK]<sop><|user|>\n", "<|assistant|>"),
    ],
)
def test_a_prompt_ends_where_the_text_begins(name, before, end):
    found = turn(name)
    assert decoded(found, found.before) == before
    assert end in found.ends


def test_a_system_text_takes_the_place_of_the_templates_own():
    found = turn("smollm2", "You know elements.")
    assert decoded(found, found.before) == (
        "<|im_start|>system\nYou know elements.<|im_end|>\n<|im_start|>user\n"
    )
    encoded = found.encoded(0, TEXT, 1000)
    assert encoded is not None
    assert decoded(found, encoded.ids) == decoded(found, found.before) + TEXT


def test_the_turn_ends_at_the_first_special_token_of_any_kind():
    found = turn("chatml")
    assert found.text_in(" one \n<|im_start|>two<|im_end|>") == "one"
    assert found.text_in("<|im_end|>") == ""


@pytest.mark.parametrize(
    ("template", "side"),
    [
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "before"),
        ("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}", "after"),
    ],
)
def test_a_template_without_a_place_for_the_text_is_refused(template, side):
    with pytest.raises(TemplateError, match=f"nothing {side} a user's text.*by hand"):
        UserTurn.of(PromptRenderer(byte_level(template)))


def test_a_text_that_the_model_cannot_take_is_not_encoded():
    found = turn("chatml")
    assert found.encoded(0, "\ud800 half of a pair", 1000) is None
    assert found.encoded(0, "", 1000) is None
    num_tokens = len(found.renderer.chat([{"role": "user", "content": TEXT}]))
    assert found.encoded(0, TEXT, num_tokens) is not None
    assert found.encoded(0, TEXT, num_tokens - 1) is None


def test_a_text_with_an_unknown_token_is_not_encoded():
    tokenizer = sentencepiece_like()
    # Without byte fallback it has no token for most characters.
    spec = tokenizer.backend_tokenizer.to_str().replace('"byte_fallback":true', '"byte_fallback":false')
    tokenizer._tokenizer = Tokenizer.from_str(spec)
    tokenizer.unk_token = "<unk>"
    found = UserTurn.of(PromptRenderer(tokenizer))
    assert found.encoded(0, "what is iron", 1000) is not None
    assert found.encoded(0, "what is ☃☃", 1000) is None
