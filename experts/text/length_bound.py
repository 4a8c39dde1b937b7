"""How few tokens a text can have, known from its length alone."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from experts.text.tokenizer_spec import steps

COMPOSED_CHARS = 4  # Unicode composes at most four characters to one, such as a letter with three marks
_WHITESPACE = "".join(char for char in map(chr, range(0x3001)) if char.isspace())
_BLANKS = _WHITESPACE + "▁ĠĊčĉ"  # with the signs for blanks in vocabularies
_NO_BLANKS = str.maketrans("", "", _BLANKS)
_KEEPS_TEXT = {"ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}


def num_visible_chars(text: str) -> int:
    return len(text) - sum(map(text.count, _BLANKS))


def max_visible_chars(tokenizer: Tokenizer) -> int | None:
    """How many visible characters of a text one token can stand for; None if that has no known bound.

    Blanks do not count, because some control tokens take in all that are beside them. The bound is known for
    BPE with a token for each byte. Other tokenizers may have one token for unknown text of any length.
    """
    shrinkage = _shrinkage(tokenizer)
    if shrinkage is None or not _keeps_text(tokenizer):
        return None
    return shrinkage * max(len(token.translate(_NO_BLANKS)) for token in tokenizer.get_vocab())


def _shrinkage(tokenizer: Tokenizer) -> int | None:
    """Into how many characters at least each character of the normalised text may have been written."""
    kinds = {step["type"] for step in steps(tokenizer.normalizer) if not _replaces_a_character(step)}
    if kinds - {"Prepend", "NFC", "NFKC"}:
        return None
    return COMPOSED_CHARS if kinds - {"Prepend"} else 1


def _replaces_a_character(step: dict[str, Any]) -> bool:
    return step["type"] == "Replace" and len(step["pattern"].get("String", "")) == 1 and bool(step["content"])


def _keeps_text(tokenizer: Tokenizer) -> bool:
    model, vocabulary = tokenizer.model, tokenizer.get_vocab()
    found = list(steps(tokenizer.pre_tokenizer))
    kinds = {step["type"] for step in found}
    if not isinstance(model, models.BPE) or model.dropout or kinds - _KEEPS_TEXT:
        return False
    if any(step.get("behavior") == "Removed" for step in found):
        return False
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if model.byte_fallback else []
    if "ByteLevel" in kinds:
        byte_tokens = pre_tokenizers.ByteLevel.alphabet()
    return bool(byte_tokens) and vocabulary.keys() >= set(byte_tokens)
