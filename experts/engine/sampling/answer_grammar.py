"""The grammar of an answer, which begins where the model's thoughts end."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from experts.engine.encoding.thoughts import ThoughtMarks, ThoughtTracker
from experts.engine.grammar.state import GrammarState
from experts.engine.request import Resumed
from experts.errors import EngineFailed
from experts.text.decoder import TokenDecoder


class AnswerGrammar:
    """Without a grammar for what the model thinks, if its thoughts are open when it begins.

    `thoughts`: None if the model does not think. `decoder`: shows the marks of thoughts.
    """

    def __init__(self, state: GrammarState, thoughts: ThoughtMarks | None, decoder: TokenDecoder) -> None:
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
        return None if self._is_thinking else self._state.forbidden(width)

    def fitting(self, token_id: int, num_left: int) -> int:
        """As `GrammarState.fitting`."""
        return token_id if self._is_thinking else self._state.fitting(token_id, num_left)

    def accept(self, token_id: int) -> None:
        """The answer's next token."""
        self._is_thought.append(self._is_thinking)
        if self._is_thinking:
            self._add_thought(self._decoder.bytes_of(token_id))
        else:
            self._state.accept(token_id)

    def undo(self) -> None:
        """Forget the last token."""
        if not self._is_thought.pop():
            self._state.undo()
            return
        self._thoughts.pop()
        self._tracker = self._tracked()

    @property
    def _is_thinking(self) -> bool:
        return self._tracker is not None and self._tracker.is_open

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
            elif not self._state.accept(token_id):
                return False
        return True

    def _accept_text(self, text: str) -> bool:
        while text and self._is_thinking:
            self._add_thought(text[0].encode())
            text = text[1:]
        return self._state.accept_text(text)
