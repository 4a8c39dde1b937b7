"""Token ids to text, as they come."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase


class TextStream:
    """Whole characters only: the tokens of a broken one wait for its last byte."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self._backend = tokenizer.backend_tokenizer
        # The prompt's end decides whether a first "▁word" starts with a space.
        self._stream = DecodeStream(ids=list(prompt[-8:]), skip_special_tokens=True)
        self._num_seen = 0
        self._pending: list[int] = []

    def add(self, tokens: Sequence[int], *, last: bool) -> tuple[str, tuple[int, ...]]:
        """What `tokens`, all so far, have over the last call; with `last`, half a character as well."""
        text, ids = "", []
        for token_id in tokens[self._num_seen :]:
            self._pending.append(token_id)
            part = self._stream.step(self._backend, token_id)
            if part is not None:
                text += part
                ids += self._pending
                self._pending.clear()
        self._num_seen = len(tokens)
        if last and self._pending:
            text += self._backend.decode(self._pending, skip_special_tokens=True)
            ids += self._pending
        return text, tuple(ids)
