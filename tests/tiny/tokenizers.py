"""Small real tokenizers with chat templates."""

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.tiny.templates import ChatFormat

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# There is nothing between a role's token and the content, and contents are trimmed.
TIGHT = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system') }}"
    "{% elif message.role == 'user' %}[INST]{{ message.content | trim }}[/INST]"
    "{% else %}{{ message.content | trim }}<|im_end|>{% endif %}{% endfor %}"
)
# Template text on both sides of a content completes special tokens that the content begins or ends.
HOSTILE = (
    "{% for message in messages %}{{ message.role }}<|{{ message.content }}|>{{ message.content }}end|>"
    "<|im_end|>☃{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "☃", "<|im_end|><|im_start|>")
ORDINARY_ADDED = ("<tool>", "|>end", "aba", "ab", "✂", "im_end|")
CORPUS = (
    "the meta writes words, an expert answers: Hello! 1 2 3 what is the symbol of iron? ",
    "<|im_end|> ab [INST",
)


def byte_level(
    template: str | None = CHATML, added: tuple[str, ...] = ORDINARY_ADDED
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 330 ids that can spell any text."""
    return _wrapped(_byte_level_backend(), template, added)


def of_format(chat_format: ChatFormat) -> PreTrainedTokenizerFast:
    """The same BPE with the template and the added tokens of one model family, and no others."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_backend(),
        bos_token=chat_format.bos,
        eos_token=chat_format.eos,
        additional_special_tokens=list(chat_format.control),
    )
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in chat_format.visible]
    )
    tokenizer.chat_template = chat_format.template
    return tokenizer


def sentencepiece_like(template: str | None = CHATML, legacy: bool = False) -> PreTrainedTokenizerFast:
    """Characters with byte fallback, a space before the text, and a bos before every raw prompt.

    `legacy` puts the space before each section between added tokens, not only before the first.
    """
    backend = Tokenizer(_characters(bos="<s>"))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(backend, template, (), bos_token="<s>")


def gemma_like(num_unused: int = 0) -> PreTrainedTokenizerFast:
    """Characters with byte fallback and no space before the text; `num_unused` special tokens."""
    backend = Tokenizer(_characters(bos="<bos>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = _wrapped(backend, CHATML, (), bos_token="<bos>")
    unused = [AddedToken(f"<unused{i}>", special=True, normalized=False) for i in range(num_unused)]
    tokenizer.add_tokens(unused)
    return tokenizer


def torn() -> PreTrainedTokenizerFast:
    """Byte-level, with tokens that begin in one character and end in another."""
    char_of = bytes_to_unicode()
    torn = [b"\xe4\xbd", b"\xa0\xe5", b"\xa5\xbd\xe4", b"A\xf0\x9f", b"\x98\x80B", b"\x98", b"\xbd\xf0"]
    tokens = [*([byte] for byte in range(256)), *torn]
    names = ["".join(char_of[byte] for byte in token) for token in tokens]
    backend = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(dict.fromkeys(names))}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _wrapped(backend, CHATML, ())


def lower_casing() -> PreTrainedTokenizerFast:
    """Converts text to lower case before it looks for `<search>`."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("<search>", special=False, normalized=True)])
    return tokenizer


def _characters(bos: str) -> models.BPE:
    names = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz|<>[]/_ABC"]
    vocab = {"<unk>": 0, bos: 1} | {name: 2 + i for i, name in enumerate(names)}
    return models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True)


def _byte_level_backend() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def _wrapped(
    backend: Tokenizer, template: str | None, added: tuple[str, ...], bos_token: str | None = None
) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos_token,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=[name for name in SPECIAL if name != "<|im_end|>"],
    )
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in added])
    tokenizer.chat_template = template
    return tokenizer
