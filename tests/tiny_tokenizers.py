"""Small real tokenizers with chat templates, made on the spot."""

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

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Nothing stands between a role's mark and the content, and contents are trimmed.
TIGHT = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system') }}"
    "{% elif message.role == 'user' %}[INST]{{ message.content | trim }}[/INST]"
    "{% else %}{{ message.content | trim }}<|im_end|>{% endif %}{% endfor %}"
)
# Template text on either side of a content completes spellings that the content breaks off.
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
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return _wrapped(backend, template, added)


def sentencepiece_like(template: str | None = CHATML, legacy: bool = False) -> PreTrainedTokenizerFast:
    """Characters with byte fallback, a space put before the text, and a bos before every raw prompt.

    `legacy` puts the space before every section between added tokens, not only before the first.
    """
    names = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz|<>[]/_ABC"]
    vocab = {"<unk>": 0, "<s>": 1} | {name: 2 + i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(backend, template, (), bos_token="<s>")


def lower_casing() -> PreTrainedTokenizerFast:
    """Normalises text to lower case, before it looks for `<tool>`."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("<search>", special=False, normalized=True)])
    return tokenizer


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
