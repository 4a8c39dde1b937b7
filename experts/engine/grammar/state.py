"""How much of a grammar an answer has matched, and which tokens may follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import xgrammar
from torch import Tensor

from experts.engine.grammar.completer import Completer
from experts.engine.grammar.utf8 import Utf8Rules
from experts.engine.grammar.words import Words


@dataclass(frozen=True)
class CompiledGrammar:
    """`matched`: by the library; `allowed`: bool [tokens], which tokens may be used at all; `words` and
    `max_growth`: see `Completer`."""

    matched: xgrammar.CompiledGrammar
    allowed: npt.NDArray[np.bool_]
    words: Words
    utf8: Utf8Rules
    max_growth: int


class GrammarState:
    """The state of one answer. `end_ids`: the only tokens that may follow a matched grammar."""

    def __init__(self, compiled: CompiledGrammar, end_ids: Sequence[int]) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled.matched, override_stop_tokens=list(end_ids))
        self._num_words = compiled.matched.tokenizer_info.vocab_size
        self._bits = xgrammar.allocate_token_bitmask(1, self._num_words)
        self._compiled = compiled
        self._accepted: list[bool] = []
        self._ends: list[bytes] = [b""]  # of the tokens, whose last may be the beginning of a character
        self._completer = Completer(self._matcher, compiled.words, end_ids[0], compiled.max_growth)

    def forbidden(self, width: int) -> Tensor | None:
        """The tokens that may not follow, bool [width] on the CPU; None if all may."""
        if self._matcher.is_terminated() or not self._matcher.fill_next_token_bitmask(self._bits):
            return None
        bits = np.unpackbits(self._bits.numpy().view(np.uint8), bitorder="little")[: self._num_words]
        may_follow = bits.view(np.bool_) & self._compiled.allowed
        if (continues := self._compiled.utf8.after(self._ends[-1])) is not None:
            may_follow &= continues
        mask = torch.ones(max(width, self._num_words), dtype=torch.bool)
        mask[: self._num_words] = torch.from_numpy(~may_follow)
        return mask[:width]

    def fitting(self, token_id: int, num_left: int) -> int:
        """As `Completer.fitting`."""
        return self._completer.fitting(token_id, num_left)

    def accept(self, token_id: int) -> bool:
        """The answer's next token. Returns whether it matches; nothing can follow the end."""
        is_matched = not self._matcher.is_terminated() and bool(self._matcher.accept_token(token_id))
        self._accepted.append(is_matched)
        self._ends.append(self._compiled.words.bytes_of(token_id)[-1:])
        return is_matched

    def accept_text(self, text: str) -> bool:
        """The answer's beginning. Returns whether it matches."""
        return bool(self._matcher.accept_string(text))

    def undo(self) -> None:
        """Forget the last token."""
        self._ends.pop()
        if self._accepted.pop():
            self._matcher.rollback(1)
        self._completer.reset()
