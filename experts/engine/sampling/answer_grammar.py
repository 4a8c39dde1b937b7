"""The grammar of an answer, which begins where the model's thoughts end."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from experts.engine.encoding.thoughts import ThoughtMarks, ThoughtTracker
from experts.engine.grammar.call_beginnings import CallBeginnings
from experts.engine.grammar.state import GrammarState
from experts.engine.request import Resumed
from experts.errors import EngineFailed
from experts.text.decoder import TokenDecoder


class AnswerGrammar:
    """Without a grammar for what the model thinks, if its thoughts are open when it begins, and for a call.

    `thoughts`: None if the model does not think. `decoder`: shows the marks of thoughts and calls. `calls`:
    None if the answer cannot be a call.
    """

    def __init__(
        self,
        state: GrammarState,
        thoughts: ThoughtMarks | None,
        decoder: TokenDecoder,
        calls: CallBeginnings | None = None,
    ) -> None:
        self._calls = calls
        self._begun = b""  # after the thoughts, before `resume`
        self._answer: list[bytes] = []  # since `resume`
        self._matches = [True]  # the grammar, after each of these tokens
        self._is_fed: list[bool] = []  # to the grammar, each of these tokens
        self._state = state
        self._marks = replace(thoughts, resumed="") if thoughts else None
        self._decoder = decoder
        self._thoughts: list[bytes] = []
        self._tracker = self._tracked()
        self._is_thought: list[bool] = []  # for each token since `resume`

    def resume(self, resumed: Resumed, *, knows_ids: bool) -> None:
        """Continue an interrupted answer. `knows_ids`: the ids of `resumed` are of this tokenizer.

        Raises EngineFailed: the grammar does not match what the answer has already.
        """
        is_matched = self._accept_ids(resumed.ids) if knows_ids else self._accept_text(resumed.text)
        if not is_matched:
            raise EngineFailed("an interrupted answer does not match its grammar, so it cannot be continued")

    def forbidden(self, width: int) -> Tensor | None:
        """As `GrammarState.forbidden`."""
        if self._is_thinking:
            return None
        if self._calls is None or not self._calls.may_begin(text := self._text):
            return self._state.forbidden(width)
        if self._calls.has_begun(text):
            return None
        mask = self._state.forbidden(width) if self._matches[-1] else torch.ones(width, dtype=torch.bool)
        if mask is not None:
            mask[[i for i in self._calls.next_ids(text) if i < width]] = False
        return mask

    def fitting(self, token_id: int, num_left: int) -> int:
        """As `GrammarState.fitting`."""
        if self._is_thinking or self._may_be_call(self._text + self._decoder.inner_bytes(token_id)):
            return token_id
        return self._state.fitting(token_id, num_left)

    def accept(self, token_id: int) -> None:
        """The answer's next token."""
        self._is_thought.append(self._is_thinking)
        if self._is_thinking:
            self._add_thought(self._decoder.bytes_of(token_id))
        else:
            self._add_answer(token_id)

    def undo(self) -> None:
        """Forget the last token."""
        if not self._is_thought.pop():
            if self._is_fed.pop():
                self._state.undo()
            self._answer.pop()
            self._matches.pop()
            return
        self._thoughts.pop()
        self._tracker = self._tracked()

    @property
    def _is_thinking(self) -> bool:
        return self._tracker is not None and self._tracker.is_open

    @property
    def _text(self) -> bytes:
        """Of the answer. Only needed if it may be a call."""
        return self._begun + b"".join(self._answer) if self._calls is not None else b""

    def _may_be_call(self, text: bytes) -> bool:
        return self._calls is not None and self._calls.may_begin(text)

    def _add_answer(self, token_id: int) -> bool:
        """Returns whether the answer still matches the grammar, or may be a call."""
        # A call leaves the grammar for good. The library would warn of each mark that is a special token.
        is_fed = self._matches[-1] and not (self._calls and token_id in self._decoder.shown_ids)
        is_matched = is_fed and self._state.accept(token_id)
        self._is_fed.append(is_fed)
        self._answer.append(self._decoder.inner_bytes(token_id))
        self._matches.append(is_matched)
        return is_matched or self._may_be_call(self._text)

    def _add_thought(self, data: bytes) -> None:
        assert self._tracker is not None
        self._thoughts.append(data)
        self._tracker.add(data)

    def _tracked(self) -> ThoughtTracker | None:
        if self._marks is None:
            return None
        tracker = self._marks.tracker()
        for data in self._thoughts:
            tracker.add(data)
        return tracker

    def _accept_ids(self, ids: tuple[int, ...]) -> bool:
        for token_id in ids:
            if self._is_thinking:
                self._add_thought(self._decoder.bytes_of(token_id))
            elif not self._add_answer(token_id):
                return False
        return True

    def _accept_text(self, text: str) -> bool:
        while text and self._is_thinking:
            self._add_thought(text[0].encode())
            text = text[1:]
        self._begun = text.encode()
        self._matches = [self._state.accept_text(text)]
        return self._matches[-1] or self._may_be_call(self._begun)
