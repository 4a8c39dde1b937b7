"""Which positions of a query's prompt are learned from, and what each should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from experts.errors import DataError, InvalidPrompt
from experts.learn.queries import Query, broken_lines
from experts.prompt import PromptRenderer

WORD = -1  # in place of an expert's index
ANY_WORD = -1  # in place of a word's id: no hand-over, whichever word comes


@dataclass(frozen=True)
class Targets:
    """The token ids of a prompt, and parallel lists: where something is predicted, and what.

    `words` holds token ids (or ANY_WORD) and counts where `experts` is WORD; else the expert's index.
    """

    ids: list[int]
    positions: list[int]
    words: list[int]
    experts: list[int]


def expert_names(queries: Sequence[Query]) -> tuple[str, ...]:
    """Every expert that the queries name, sorted."""
    return tuple(sorted({query.expert for query in queries if query.expert is not None}))


def all_targets(
    queries: Sequence[Query], renderer: PromptRenderer, names: Sequence[str], max_tokens: int | None
) -> list[Targets]:
    """Raises DataError listing the queries that do not fit the template, or the window of `max_tokens`."""
    if not queries:
        raise DataError("there are no queries to learn from; give at least one for every expert")
    targets, problems = [], []
    for query in queries:
        try:
            found = find_targets(query, renderer, names)
        except InvalidPrompt as error:
            problems.append(f"{query.place}: {error}")
            continue
        targets.append(found)
        if max_tokens and len(found.ids) > max_tokens:
            problems.append(f"{query.place}: {len(found.ids)} tokens, but the meta takes {max_tokens}")
    if problems:
        raise DataError(broken_lines("query set", problems, len(queries)))
    return targets


def find_targets(query: Query, renderer: PromptRenderer, expert_names: Sequence[str]) -> Targets:
    """Word targets for what the meta writes, then the expert, or the end of the turn of a whole answer."""
    prompt = renderer.chat(query.messages)
    ids = renderer.chat(query.messages, query.turn) if query.turn else prompt
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
    # A token merged from prompt and answer is never predicted in service: there the prompt stands alone.
    first = shared if shared == len(prompt) else shared + 1
    positions = [*range(first - 1, len(ids) - 1), len(ids) - 1]
    words = [*ids[first:], _last_word(query, renderer)]
    experts = [WORD] * len(words)
    if query.expert is not None:
        experts[-1] = expert_names.index(query.expert)
    return Targets(ids, positions, words, experts)


def _last_word(query: Query, renderer: PromptRenderer) -> int:
    end_of_turn = renderer.tokenizer.eos_token_id
    return int(end_of_turn) if query.turn and isinstance(end_of_turn, int) else ANY_WORD
