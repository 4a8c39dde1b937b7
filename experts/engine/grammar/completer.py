"""Completes an answer under its grammar before its tokens are used up."""

from __future__ import annotations

import math

import xgrammar

from experts.engine.grammar.completion import completion
from experts.engine.grammar.words import Words

# After a search without a result: the next one is so many tokens later.
RETRY_TOKENS = 16
_ENDS = (b'"', b"}", b"]", b",")  # of a value


class Completer:
    """For one answer.

    Args:
        matcher: The answer's.
        words: Of the vocabulary.
        end_id: May follow a complete answer.
        max_growth: By how many tokens one token may lengthen what completes the answer. With it, the
            completer looks only now and then while many tokens are left.
    """

    def __init__(self, matcher: xgrammar.GrammarMatcher, words: Words, end_id: int, max_growth: int) -> None:
        self._matcher = matcher
        self._words = words
        self._end_id = end_id
        self._max_growth = max_growth
        self._latest = b""  # what was found last
        self._latest_ids: list[int] | None = []
        self.reset()

    def reset(self) -> None:
        """Look at the next token: the answer is not where it was."""
        self._next_num_left: float = math.inf

    def fitting(self, token_id: int, num_left: int) -> int:
        """The token itself if the answer can be completed after it, else the first one of a completion.

        `num_left`: the tokens that may still be written, this one included. If they do not suffice for any
        completion that is found, every token fits.
        """
        if num_left > self._next_num_left:
            return token_id
        rest = self._rest_after(token_id, num_left - 1)
        if rest is not None:
            self._next_num_left = num_left - 1 - (num_left - 1 - len(rest)) // self._max_growth
            return token_id
        rest = self._rest(b"", num_left)
        if rest is None:
            self._next_num_left = num_left - RETRY_TOKENS
            return token_id
        self._next_num_left = num_left - 1
        return rest[0] if rest else self._end_id

    def _rest_after(self, token_id: int, num_left: int) -> list[int] | None:
        if self._matcher.is_terminated() or not self._matcher.accept_token(token_id):
            return []  # the answer is complete: nothing has to match any more
        is_ended = self._matcher.is_terminated()
        rest = [] if is_ended else self._rest(self._words.bytes_of(token_id), num_left)
        self._matcher.rollback(1)
        return rest

    def _rest(self, new: bytes, num_left: int) -> list[int] | None:
        """The ids of a completion, at most `num_left`. `new`: the last bytes of the answer."""
        latest = self._latest
        known = [data for data in (latest.removeprefix(new), latest) if self._completes(data)]
        for data in known:
            if (ids := self._fit(data, num_left)) is not None:
                return ids
        if new and latest in known and latest[:1] in _ENDS:
            return None  # a value has only become longer
        found = completion(self._matcher)
        return None if found is None else self._fit(found, num_left)

    def _fit(self, data: bytes, num_left: int) -> list[int] | None:
        if data != self._latest:
            self._latest, self._latest_ids = data, self._words.ids_of(data)
        ids = self._latest_ids
        return ids if ids is not None and len(ids) <= num_left else None

    def _completes(self, data: bytes) -> bool:
        if not data:
            return bool(self._matcher.is_completed())
        if not self._matcher.accept_string(data):
            return False
        is_complete = bool(self._matcher.is_completed())
        self._matcher.rollback(1)
        return is_complete
