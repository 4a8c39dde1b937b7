"""Small tokenizers in the shape of those that people's models have, as the files that a checkpoint holds.

Each is built the way the real one is: the same normalizer, pre-tokenizer, decoder and post-processor, the
same class name in `tokenizer_config.json`, and as many added tokens. Only the vocabulary is small.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = (
    "The answer is 42. What is the symbol of iron? Write a function that sorts numbers, and explain it.",
    "def sort(numbers):\n    return sorted(numbers)\n\n# It returns a new list.\n",
    "You are a helpful assistant. Hello! Question number one: how are you today?",
    "system user assistant answer question think final analysis begin end of text turn start",
)
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NUM_MERGES = 120


@dataclass(frozen=True)
class TokenizerFiles:
    """What a checkpoint says of its tokenizer.

    `special` and `ordinary` are its added tokens, in the order of their ids; `ordinary` ones (say `<think>`)
    are no special tokens, so decoding keeps them. `strip` are the special tokens that swallow the blanks
    behind them. `class_name` is what `tokenizer_config.json` names; `settings` are its other keys.
    """

    class_name: str
    special: Sequence[str]
    eos: str
    bos: str | None = None
    pad: str | None = None
    ordinary: Sequence[str] = ()
    strip: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path, backend: Tokenizer, template: str | None) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
        backend.add_special_tokens(
            [AddedToken(name, normalized=False, rstrip=name in self.strip) for name in self.special]
        )
        backend.add_tokens([AddedToken(name, normalized=False) for name in self.ordinary])
        backend.save(str(folder / "tokenizer.json"))
        named = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        settings = {"tokenizer_class": self.class_name, **named, **self.settings}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def byte_level(
    first: Sequence[str] = (), *, bos: str | None = None, nfc: bool = False, pattern: str = WORDS
) -> Tokenizer:
    """Byte-level BPE: GPT-2, Llama 3, Qwen, tekken, o200k. It can spell any text.

    `first`: added tokens with the ids before all others, as tekken has them. `bos` begins every raw prompt.
    """
    names, merges = _byte_level_bpe(pattern)
    vocab = {name: i for i, name in enumerate([*first, *names])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    backend.normalizer = normalizers.NFC() if nfc else None
    backend.pre_tokenizer = _byte_level_words(pattern)
    backend.decoder = decoders.ByteLevel()
    if bos is not None:
        backend.add_special_tokens([AddedToken(bos, normalized=False)])
        number = backend.token_to_id(bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, number)]
        )
    return backend


def byte_fallback(first: Sequence[str], bos: str, *, prefix: bool, blanks: Sequence[str] = ()) -> Tokenizer:
    """SentencePiece BPE: Llama 2, Mistral 7B, Phi 3 with a space before the text (`prefix`); Gemma without.

    Characters that the vocabulary lacks are spelled in bytes. `first`: the added tokens before the bytes;
    `blanks`: tokens of several spaces or line breaks behind them.
    """
    letters, merges = _sentencepiece_bpe()
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    names = [*first, *spelled, *blanks, *letters]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        spaces = normalizers.Replace(" ", "▁")
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, vocab[bos])]
    )
    return backend


@cache
def _byte_level_bpe(pattern: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """(names in the order of their ids, merges)."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = _byte_level_words(pattern)
    return _trained(backend, pre_tokenizers.ByteLevel.alphabet())


@cache
def _sentencepiece_bpe() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    letters = [chr(code) for code in range(33, 127)]
    return _trained(backend, ["▁", *letters, "é", "ü", "。"])


def _trained(
    backend: Tokenizer, alphabet: Sequence[str]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=len(alphabet) + NUM_MERGES, initial_alphabet=list(alphabet), show_progress=False
        ),
    )
    model = json.loads(backend.to_str())["model"]
    names = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tuple(names), tuple((left, right) for left, right in model["merges"])


def _byte_level_words(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
