"""The place of a user's text in a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from experts.errors import InvalidCall, TemplateError
from experts.learn.likelihood import EncodedQuery
from experts.prompt import PromptRenderer

# No two begin or end alike, so what their prompts share is the template's.
_PROBES = ("an apple", "The first book", "7 boxes")


@dataclass(frozen=True)
class UserTurn:
    """The first user message in the prompts of one model, after the system text `system`.

    `system` "" leaves the template its default text, if it has one. `before`: the ids up to the user's text,
    without those that may merge with it. `after`: the ids from its end to the assistant's open turn.
    `ends`: each of these texts ends the turn.
    """

    renderer: PromptRenderer
    system: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    ends: frozenset[str]

    @classmethod
    def of(cls, renderer: PromptRenderer, system: str = "") -> UserTurn:
        """Raises TemplateError if the template marks no place for the text, or InvalidPrompt."""
        prompts = [_prompt(renderer, system, probe) for probe in _PROBES]
        before = _shared(prompts)
        after = _shared([prompt[::-1] for prompt in prompts])[::-1]
        if not before or not after:
            side = "after" if before else "before"
            raise TemplateError(
                f"{renderer.tokenizer.name_or_path or 'this model'}: the chat template has nothing {side} a "
                "user's text, so the model cannot write one; write the questions by hand"
            )
        end = _end_mark(renderer.tokenizer, after)
        return cls(renderer, system, before, after, frozenset({end, *renderer.tokenizer.all_special_tokens}))

    def text_in(self, decoded: str) -> str | None:
        """The user's text at the beginning of `decoded`, without blanks around it; None if it has no end."""
        found = [at for end in self.ends if (at := decoded.find(end)) >= 0]
        return decoded[: min(found)].strip() if found else None

    def encoded(self, index: int, text: str, max_tokens: float) -> EncodedQuery | None:
        """The prompt up to the end of `text`, to score `text`; None if the model cannot take it.

        A token merged from the template and the text counts as a part of the text.
        """
        try:
            prompt = _prompt(self.renderer, self.system, text)
        except InvalidCall:
            return None
        first = _num_shared(prompt, self.before)
        ids = prompt[: len(prompt) - _num_shared(prompt[::-1], self.after[::-1])]
        # The unknown token is easy to predict but spells nothing.
        if not ids[first:] or len(prompt) > max_tokens or self.renderer.tokenizer.unk_token_id in ids[first:]:
            return None
        return EncodedQuery(index, ids, first)


def _prompt(renderer: PromptRenderer, system: str, text: str) -> list[int]:
    messages = [{"role": "system", "content": system}] if system else []
    return renderer.chat([*messages, {"role": "user", "content": text}])


def _shared(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The ids that all prompts begin with."""
    first, *others = prompts
    return tuple(first[: min(_num_shared(first, other) for other in others)])


def _num_shared(ids: Iterable[int], others: Iterable[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False)))


def _end_mark(tokenizer: PreTrainedTokenizerBase, after: Sequence[int]) -> str:
    """The first control token after the user's text; without one, all of the text up to the answer."""
    added = [token.content for i in after if (token := tokenizer.added_tokens_decoder.get(i))]
    controls = [content for content in added if content.strip()]
    return controls[0] if controls else str(tokenizer.decode(list(after))).strip()
