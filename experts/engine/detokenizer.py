"""Token ids to text, while they are generated."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

from experts.text.decoder import MAX_UNFINISHED_BYTES, TokenDecoder, continues, unfinished

NEAR_TOKENS = 8  # of the prompt's end, in which a token is sought that the answer's text may be decoded after


class IncrementalDetokenizer:
    """Returns whole characters only: tokens of an incomplete character are kept until its last byte.

    All texts together are what the answer adds to the decoded prompt. `prompt` is its token ids: its end
    decides whether a first "▁word" begins with a space, and it may hold the beginning of a character.

    A byte that cannot belong to a character becomes U+FFFD, by itself. Decoded at once, a byte-fallback
    tokenizer would give U+FFFD for whole characters beside it too, which the client may have already.
    """

    def __init__(self, decoder: TokenDecoder, prompt: Sequence[int]) -> None:
        self._decoder = decoder
        self._before = self._bridge(prompt)
        self._cut = self._cut_character(prompt)
        self._held = unfinished(b"".join(map(decoder.bytes_of, self._cut)))
        self._num_seen = 0
        self._pending: list[int] = []

    def add(self, tokens: Sequence[int], *, last: bool) -> tuple[str, tuple[int, ...]]:
        """Decode what is new.

        Args:
            tokens: all ids of the answer so far, those of earlier calls included.
            last: no call follows, so an incomplete character is given out too, as U+FFFD.

        Returns:
            The new text and the ids that make it up. Every id is returned exactly once over all calls.
        """
        text = ""
        ids: list[int] = []
        for token_id in tokens[self._num_seen :]:
            data = self._decoder.bytes_of(token_id)
            if self._held and data and not continues(self._held, data):
                text += self._take(ids)
                self._held = b""
            self._pending.append(token_id)
            self._held = unfinished(self._held + data)
            if not self._held:
                text += self._take(ids)
        self._num_seen = len(tokens)
        if last:
            text += self._take(ids)
        return text, tuple(ids)

    def _take(self, ids: list[int]) -> str:
        """The text of the pending tokens, which move to `ids`."""
        shown = self._decoder.decode([*self._before, *self._cut])
        text = self._decoder.decode([*self._before, *self._cut, *self._pending])
        self._before = self._bridge(self._pending) or self._before
        self._cut = []
        ids += self._pending
        self._pending = []
        # Shorter than `shown` only if the answer completes a character that the prompt began.
        return text[len(commonprefix([shown, text])) :]

    def _bridge(self, ids: Sequence[int]) -> list[int]:
        """A token to decode what follows `ids` after; none if `ids` have no text."""
        near = next((i for i in reversed(ids[-NEAR_TOKENS:]) if self._decoder.is_bridge(i)), None)
        if near is None and any(map(self._decoder.bytes_of, ids)):
            near = self._decoder.bridge
        return [] if near is None else [near]

    def _cut_character(self, prompt: Sequence[int]) -> list[int]:
        """The last ids of the prompt, if they hold the beginning of a character."""
        ids: list[int] = []
        data = b""
        for token_id in reversed(prompt):
            if len(data) >= MAX_UNFINISHED_BYTES:
                break
            ids.insert(0, token_id)
            data = self._decoder.bytes_of(token_id) + data
        excess = len(data) - len(unfinished(data))
        while ids and excess >= len(self._decoder.bytes_of(ids[0])):
            excess -= len(self._decoder.bytes_of(ids.pop(0)))
        return ids
