"""Pictures in a prompt: what the chat template has in their places, and no text that passes for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from experts.chat_messages import picture_urls
from experts.checkpoint_files import prepares_media, reads_pictures
from experts.errors import InvalidPrompt, TemplateError
from experts.prompt import PromptRenderer
from tests.tiny.seeing import TEMPLATE, look, picture, save_seeing
from tests.tiny.tokenizers import CHATML, byte_level

RED, BLUE = picture("red"), picture("blue")
# Takes texts as well as parts, and no system message.
EITHER = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def renderer(template: str) -> PromptRenderer:
    tokenizer = byte_level(template, added=())
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    found = PromptRenderer(tokenizer)
    found.self_test()
    return found


def rendered(template: str, messages: Sequence[Mapping[str, Any]], written: str = "", **options: Any) -> str:
    seeing = renderer(template).with_pictures()
    return str(seeing.tokenizer.decode(seeing.chat(messages, written, **options)))


@pytest.mark.parametrize("template", [TEMPLATE, EITHER])
def test_a_placeholder_stands_in_the_place_of_each_picture(template: str):
    question = look("what is ", RED, " beside ", BLUE)
    expected = "<|im_start|>user\nwhat is <image> beside <image><|im_end|>\n<|im_start|>assistant\n"
    assert rendered(template, question) == expected
    assert rendered(template, question, "Hello") == f"{expected}Hello"
    assert picture_urls(question) == [RED, BLUE]


@pytest.mark.parametrize("template", [TEMPLATE, EITHER])
def test_a_text_that_spells_a_placeholder_is_none(template: str):
    seeing = renderer(template).with_pictures()
    ids = seeing.chat(look("<image>", RED, "<ima"))
    assert ids.count(seeing.tokenizer.added_tokens_encoder["<image>"]) == 1
    assert "<image><image><ima" in str(seeing.tokenizer.decode(ids))


def test_instructions_and_tools_stand_beside_pictures_if_the_template_knows_neither():
    system = {"role": "system", "content": "be brief"}
    tools = [{"type": "function", "function": {"name": "zoom"}}]
    text = rendered(EITHER, [system, *look(RED, "what?")], variables={"tools": tools})
    assert "be brief" in text
    assert "zoom" in text
    assert text.endswith("\n\n<image>what?<|im_end|>\n<|im_start|>assistant\n")


def test_a_model_that_reads_text_refuses_pictures():
    with pytest.raises(InvalidPrompt, match="reads text only"):
        renderer(EITHER).chat(look(RED, "what?"))


def test_only_messages_of_the_user_have_pictures():
    content = look(RED)[0]["content"]
    with pytest.raises(InvalidPrompt, match="assistant message has no text"):
        renderer(EITHER).with_pictures().chat([*look("a"), {"role": "assistant", "content": content}])


@pytest.mark.parametrize("template", [CHATML, EITHER.replace("<image>", "")])
def test_a_template_without_places_for_pictures_is_refused(template: str):
    with pytest.raises(TemplateError, match=r"no place for pictures.*modalities: \[text\]"):
        renderer(template).with_pictures()


def test_a_checkpoint_reads_pictures_if_it_sees_and_has_what_prepares_them(tmp_path: Path):
    save_seeing(tmp_path)
    assert reads_pictures(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    assert not reads_pictures(tmp_path)
    assert not prepares_media(tmp_path)
    (tmp_path / "preprocessor_config.json").touch()
    assert reads_pictures(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert not reads_pictures(tmp_path)
    assert prepares_media(tmp_path)
