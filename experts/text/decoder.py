"""Token ids to bytes and to text, one tokenizer's way; and where bytes end inside a character."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Collection, Sequence
from functools import cached_property

from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from experts.text.tokenizer_spec import steps

MAX_UNFINISHED_BYTES = 3  # a UTF-8 character has at most 4 bytes


class TokenDecoder:
    """Decodes ids of one tokenizer; special tokens have no text, except those in `shown`.

    Byte-level tokenizers spell every token in bytes, and byte-fallback tokenizers have a token for each byte.
    So a token of either may hold a part of a character.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Collection[str] = ()) -> None:
        kinds = {step["type"] for step in steps(tokenizer.decoder)}
        added = tokenizer.get_added_tokens_decoder()
        self._tokenizer = tokenizer
        self._num_ids = 1 + max(tokenizer.get_vocab().values(), default=-1)
        self._hidden_ids = {i for i, token in added.items() if token.special and token.content not in shown}
        self.shown_ids = [i for i, token in added.items() if token.special and token.content in shown]
        # The library skips special tokens by itself, but only all of them.
        self._shows_some = bool(self.shown_ids)
        self._byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
        self._is_byte_level = "ByteLevel" in kinds
        self._has_byte_tokens = "ByteFallback" in kinds
        self._bytes: dict[int, bytes] = {}
        self._bridges: dict[int, bool] = {}

    def showing(self, tokens: Collection[str]) -> TokenDecoder:
        """A decoder of the same tokenizer for which these tokens have text, even if they are special."""
        return TokenDecoder(self._tokenizer, tokens)

    def decode(self, ids: Sequence[int]) -> str:
        if self._shows_some:
            ids = [token_id for token_id in ids if token_id not in self._hidden_ids]
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not self._shows_some))

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text; none for a special token and for an id without a token."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._spell(token_id)
        return found

    def vocabulary(self) -> list[bytes]:
        """By id, the bytes that each token adds in the middle of a text."""
        return [self.inner_bytes(token_id) for token_id in range(self._num_ids)]

    def inner_bytes(self, token_id: int) -> bytes:
        """As `bytes_of`, but what the tokenizer writes in place of a space is a space."""
        data = self.bytes_of(token_id)
        if not data or self._is_byte_level or self.bridge is None:
            return data
        text = self.decode([self.bridge, token_id])[len(self.decode([self.bridge])) :]
        return data if "\ufffd" in text else text.encode()  # a part of a character is not text

    def name_of(self, token_id: int) -> str:
        """What the vocabulary calls it, for a token without text."""
        return self._tokenizer.id_to_token(token_id) or ""

    def is_bridge(self, token_id: int) -> bool:
        """Whether the token can stand before others without a change to their text: it has a visible text of
        whole characters, and is no byte token, which would be decoded together with byte tokens after it."""
        found = self._bridges.get(token_id)
        if found is None:
            found = self._bridges[token_id] = self._has_visible_text(token_id)
        return found

    @cached_property
    def bridge(self) -> int | None:
        """The first such token of the vocabulary."""
        return next(filter(self.is_bridge, range(self._num_ids)), None)

    def _spell(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._hidden_ids:
            return b""
        if self._has_byte_tokens and (byte := _byte(token)) is not None:
            return bytes([byte])
        if self._is_byte_level and all(char in self._byte_of for char in token):
            return bytes(self._byte_of[char] for char in token)
        return token.encode()

    def _has_visible_text(self, token_id: int) -> bool:
        token = self._tokenizer.id_to_token(token_id)
        if not self.bytes_of(token_id) or (self._has_byte_tokens and _byte(str(token)) is not None):
            return False
        text = self.decode([token_id])
        return bool(text.strip()) and "\ufffd" not in text


def unfinished(data: bytes) -> bytes:
    """The end of `data` that begins a UTF-8 character and lacks its last bytes; b"" if there is none."""
    for length in range(1, min(len(data), MAX_UNFINISHED_BYTES) + 1):
        if _begins_character(data[-length:]):
            return data[-length:]
    return b""


def continues(beginning: bytes, data: bytes) -> bool:
    """Whether the first byte of `data` may follow `beginning`, which is unfinished."""
    try:
        utf_8_decode(beginning + data[:1], "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def _begins_character(data: bytes) -> bool:
    try:
        return utf_8_decode(data, "strict", False)[1] == 0
    except UnicodeDecodeError:
        return False


def _byte(token: str) -> int | None:
    """The byte of a token such as <0xE4>, recognised as the `tokenizers` library does."""
    if len(token) != 6 or not (token.startswith("<0x") and token.endswith(">")):
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None
