"""Finds the positions of a prompt that are learned from, and what each should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from experts.errors import DataError, InvalidPrompt
from experts.learn.queries import QUERY_SET, Query, broken_rows
from experts.prompt import PromptRenderer

WORD = -1  # in place of an expert's index
ANY_WORD = -1  # in place of a word's id: any word is right, but no hand-over


@dataclass(frozen=True)
class Targets:
    """The token ids of a prompt, and three parallel lists: target positions, and what each should predict.

    `experts` holds the index of an expert, or WORD; then `words` holds the target's token id, or ANY_WORD.
    """

    ids: list[int]
    positions: list[int]
    words: list[int]
    experts: list[int]


def expert_names(queries: Sequence[Query]) -> tuple[str, ...]:
    """All experts that the queries name, sorted."""
    return tuple(sorted({query.expert for query in queries if query.expert is not None}))


def all_targets(
    queries: Sequence[Query], renderer: PromptRenderer, names: Sequence[str], max_tokens: int | None
) -> list[Targets]:
    """Raises DataError with the queries that do not fit the template, or the window of `max_tokens`."""
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
        if too_long := _excess(len(found.ids), max_tokens):
            problems.append(f"{query.place}: {too_long}")
    if problems:
        raise DataError(broken_rows(QUERY_SET, problems, len(queries)))
    return targets


def misfit(query: Query, renderer: PromptRenderer, max_tokens: int | None) -> str | None:
    """Why the query does not fit the template or the window of `max_tokens`; None if it does."""
    try:
        ids = _ids(query, renderer)
    except InvalidPrompt as error:
        return str(error)
    return _excess(len(ids), max_tokens)


def find_targets(query: Query, renderer: PromptRenderer, expert_names: Sequence[str]) -> Targets:
    """Word targets for the text that the meta writes, then the expert, or the end of the turn.

    With an own answer the expert comes first, and then the answer's words; or, if it is late, the expert
    before each of them.
    """
    prompt, ids = renderer.chat(query.messages), _ids(query, renderer)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
    # A token merged from prompt and answer never comes when serving, where the prompt is tokenized alone.
    first = shared if shared == len(prompt) else shared + 1
    if query.own_answer and first != len(prompt):  # then the position of the hand-over is not among the ids
        return find_targets(replace(query, own_answer=""), renderer, expert_names)
    positions = [*range(first - 1, len(ids) - 1), len(ids) - 1]
    words = [*ids[first:], _last_word(query, renderer)]
    expert = WORD if query.expert is None else expert_names.index(query.expert)
    if not query.own_answer:
        return Targets(ids, positions, words, [*[WORD] * (len(words) - 1), expert])
    if query.late:  # but not after the last word, where the answer may be complete
        return Targets(ids, positions[:-1], words[:-1], [expert] * (len(words) - 1))
    return Targets(ids, positions, words, [expert, *[WORD] * (len(words) - 1)])


def _ids(query: Query, renderer: PromptRenderer) -> list[int]:
    """The prompt, and what the meta writes or wrote after it."""
    return renderer.chat(query.messages, query.turn, query.own_answer)


def _excess(num_tokens: int, max_tokens: int | None) -> str | None:
    if max_tokens and num_tokens > max_tokens:
        return f"{num_tokens} tokens, but the meta takes {max_tokens}"
    return None


def _last_word(query: Query, renderer: PromptRenderer) -> int:
    end_of_turn = renderer.tokenizer.eos_token_id
    return int(end_of_turn) if query.turn and isinstance(end_of_turn, int) else ANY_WORD
