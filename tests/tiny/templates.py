"""The chat templates of templates.toml: one per model family, with the traits of its own."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

Message = dict[str, str]
_AFTER_TEXT = "\U0010fffd"


@dataclass(frozen=True)
class ChatFormat:
    """A template, and the added tokens that it needs.

    `control`: special tokens beside `bos` and `eos`. `visible`: added tokens that decoding does not skip.
    """

    template: str
    eos: str
    bos: str | None = None
    control: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()

    @property
    def special(self) -> tuple[str, ...]:
        """All special tokens, each once."""
        return tuple(dict.fromkeys(token for token in (self.bos, self.eos, *self.control) if token))


def _chat_format(template: str, **tokens: Any) -> ChatFormat:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in tokens.items()
    }
    return ChatFormat(template.strip(), **given)


_TOML = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
FORMATS: dict[str, ChatFormat] = {name: _chat_format(**entry) for name, entry in _TOML.items()}
TEMPLATES: dict[str, str] = {name: chat_format.template for name, chat_format in FORMATS.items()}


def rendered_turn(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], written: str) -> str:
    """The conversation with `written` in the open turn, as the tokenizer's own template renders it.

    The reference for what the package makes of it; text that spells a control token is not treated here.
    """
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    if not written:
        return str(render(list(messages), add_generation_prompt=True))
    answer = {"role": "assistant", "content": f"{written}{_AFTER_TEXT}"}
    return str(render([*messages, answer])).split(_AFTER_TEXT)[0]
