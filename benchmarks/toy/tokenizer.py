"""Byte-level tokenizers and chat templates of the toy models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation becomes text: `before[role] + content + after[role]` for every message."""

    before: dict[str, str]
    after: dict[str, str]
    eos: str
    control_tokens: tuple[str, ...]

    def template(self) -> str:
        """The Jinja chat template. Its generation prompt is `before["assistant"]`."""
        cases = "".join(
            f"{{% {'elif' if position else 'if'} message['role'] == '{role}' %}}"
            f"{{{{ {self.before[role]!r} + message['content'] + {self.after[role]!r} }}}}"
            for position, role in enumerate(self.before)
        )
        unknown = "{% else %}{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
        opening = f"{{% if add_generation_prompt %}}{{{{ {self.before['assistant']!r} }}}}{{% endif %}}"
        return f"{{% for message in messages %}}{cases}{unknown}{{% endfor %}}{opening}"


_ROLES = ("system", "user", "assistant")

CHATML = ChatFormat(
    before={role: f"<|im_start|>{role}\n" for role in _ROLES},
    after=dict.fromkeys(_ROLES, "<|im_end|>\n"),
    eos="<|im_end|>",
    control_tokens=("<|im_start|>", "<|im_end|>"),
)
INST = ChatFormat(
    before={"system": "[SYS]", "user": "[INST]", "assistant": "[OUT]"},
    after={"system": "[/SYS]", "user": "[/INST]", "assistant": "</s>"},
    eos="</s>",
    control_tokens=("</s>", "[SYS]", "[/SYS]", "[INST]", "[/INST]", "[OUT]"),
)
MARKDOWN = ChatFormat(
    before={"system": "### System:\n", "user": "### User:\n", "assistant": "### Assistant:\n"},
    after={"system": "\n\n", "user": "\n\n", "assistant": "<|end|>\n\n"},
    eos="<|end|>",
    control_tokens=("<|end|>",),
)

# A space belongs to the word before it. If it belonged to the word after it, as usual, "Hello! Paris" would
# be tokenized differently from "Hello! " + "Paris", and a model could not continue after "Hello! ".
WORDS = r"\p{L}+ ?|\p{N}|[^\s\p{L}\p{N}]+ ?|\s"
# Every capital and digit is a token of its own, as numerals and spelling need.
LETTERS = r"\p{Lu}|[\p{L}&&\P{Lu}]+ ?|\p{N}|[^\s\p{L}\p{N}]+ ?|\s"
# A whole number may be one token, for a model that looks numbers up.
NUMBERS = r"\p{L}+ ?|\p{N}+|[^\s\p{L}\p{N}]+ ?|\s"
PAD = "<|pad|>"


def train_tokenizer(
    texts: Iterable[str], chat_format: ChatFormat, *, pattern: str, vocab_size: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that can encode any text.

    With a `vocab_size` of 256 plus the control tokens, every byte is a token, without merges.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control_tokens = [AddedToken(token, special=True) for token in (PAD, *chat_format.control_tokens)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=control_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=chat_format.eos,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = chat_format.template()
    return fast
