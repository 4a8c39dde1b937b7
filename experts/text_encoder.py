"""Text in pieces to token ids, as if it were one text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

from experts.errors import ContextLengthExceeded, InvalidPrompt
from experts.text.length_bound import max_visible_chars, num_visible_chars
from experts.text.tokenizer_spec import spec

BATCH_PIECES = 500  # encoded in one call without the interpreter lock, which converting them takes for 2 ms


class TextEncoder:
    """Encodes with one tokenizer, which is not changed. Plain text must not get any of `control_ids`."""

    def __init__(self, tokenizer: Tokenizer, control_ids: frozenset[int]) -> None:
        self._control_ids = control_ids
        self._visible_chars = max_visible_chars(tokenizer)
        self._whole = _copy(tokenizer)
        self._following = _following(tokenizer, keep_added_tokens=True)
        self._plain = _following(tokenizer, keep_added_tokens=False)

    def encode(
        self, pieces: Sequence[tuple[str, bool]], *, add_special_tokens: bool, max_tokens: int | None = None
    ) -> list[int]:
        """Ids of (text, is_plain) pieces in order. A plain piece is one character that gets no control token.

        A single piece gets exactly the tokenizer's own ids. There may be more than `max_tokens`: only a text
        that is certainly too long is refused, before it is encoded.

        Raises:
            InvalidPrompt: a plain character has no other id than that of a control token.
            ContextLengthExceeded: the text has more than `max_tokens` tokens.
        """
        if max_tokens is not None:
            self._require_length(pieces, max_tokens)
        (first, is_plain), *others = pieces
        if not others and not is_plain:
            return self._encode(first, add_special_tokens=add_special_tokens, max_tokens=max_tokens)
        ids = [] if is_plain else self._encode(first, add_special_tokens=False)
        rest = pieces if is_plain else others
        following = _encoded(self._following, [text for text, plain in rest if not plain])
        single = self._encoded_plain([text for text, plain in rest if plain])
        for _, plain in rest:
            ids += next(single if plain else following)
        return self._framed(ids) if add_special_tokens else ids

    def _require_length(self, pieces: Sequence[tuple[str, bool]], max_tokens: int) -> None:
        max_chars = max_tokens * self._visible_chars if self._visible_chars else math.inf
        if num_visible_chars("".join(text for text, _ in pieces)) > max_chars:
            raise ContextLengthExceeded(limit=max_tokens)

    def _encode(self, text: str, *, add_special_tokens: bool, max_tokens: int | None = None) -> list[int]:
        (encoding,) = self._whole.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        if max_tokens is not None and len(encoding) > max_tokens:
            raise ContextLengthExceeded(len(encoding), max_tokens)
        return list(encoding.ids)

    def _encoded_plain(self, texts: list[str]) -> Iterator[list[int]]:
        for text, ids in zip(texts, _encoded(self._plain, texts), strict=True):
            if not ids or not self._control_ids.isdisjoint(ids):
                raise InvalidPrompt("messages", f"{text!r} is a control token here and cannot be plain text")
            yield ids

    def _framed(self, ids: list[int]) -> list[int]:
        frame, inner = (self._encode("x", add_special_tokens=added) for added in (True, False))
        start = next(i for i in range(len(frame)) if frame[i : i + len(inner)] == inner)
        return frame[:start] + ids + frame[start + len(inner) :]


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), BATCH_PIECES):
        batch = texts[start : start + BATCH_PIECES]
        yield from (encoding.ids for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False))


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without truncation and padding. The vocabulary is shared."""
    copy = _following(tokenizer, keep_added_tokens=True)
    copy.normalizer = tokenizer.normalizer
    copy.pre_tokenizer = tokenizer.pre_tokenizer
    copy.post_processor = tokenizer.post_processor
    return copy


def _following(tokenizer: Tokenizer, keep_added_tokens: bool) -> Tokenizer:
    """A tokenizer for text that follows other text: it puts no space before it. The vocabulary is shared."""
    stages = {
        "normalizer": _without_leading_space(spec(tokenizer.normalizer)),
        "pre_tokenizer": _without_leading_space(spec(tokenizer.pre_tokenizer)),
        "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
    }
    unused = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    following = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **unused, **stages}))
    following.model = tokenizer.model
    if keep_added_tokens:
        following.add_tokens([token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())])
    return following


def _without_leading_space(stage: Any) -> Any:
    if stage is None or stage["type"] == "Prepend":
        return None
    off = {"prepend_scheme": "never", "add_prefix_space": False}
    edited = {key: off.get(key, value) for key, value in stage.items()}
    for key in {"normalizers", "pretokenizers"} & stage.keys():
        edited[key] = [kept for step in stage[key] if (kept := _without_leading_space(step)) is not None]
    return edited
