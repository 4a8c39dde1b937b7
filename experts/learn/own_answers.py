"""What the meta itself answers to queries, so that tokens also learn from the middle of its answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from experts.checkpoint import checkpoint_name
from experts.errors import ModelLoadError
from experts.learn.hidden_states import Progress
from experts.learn.likelihood import window
from experts.learn.queries import Query
from experts.learn.targets import misfit
from experts.prompt import PromptRenderer

# Enough to see how the meta goes on about every subject; ten times as many would cost minutes.
NUM_ANSWERS = 300
NUM_NEW_TOKENS = 32


def choose_unanswered(queries: Sequence[Query], num_answers: int = NUM_ANSWERS) -> list[int]:
    """Indices, ascending, of at most `num_answers` queries for which the data does not say what the meta
    writes.

    Every expert, and the general queries, get the same number if they have so many, evenly spaced.
    """
    groups: dict[str | None, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        if not query.turn:
            groups[query.expert].append(index)
    chosen: list[int] = []
    smallest_first = sorted(groups.values(), key=len)
    for number, group in enumerate(smallest_first):
        share = (num_answers - len(chosen)) // (len(smallest_first) - number)
        size = min(len(group), share)
        chosen += [group[position * len(group) // size] for position in range(size)]
    return sorted(chosen)


def write_answers(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    queries: Sequence[Query],
    *,
    num_new_tokens: int = NUM_NEW_TOKENS,
    only_whole: bool = False,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> list[str]:
    """The greedy answer of the meta to every query, of at most `num_new_tokens` tokens; no expert takes part.

    It ends before the end of the turn. It is "" if the window has no room for so many tokens, if it is blank,
    if the meta's template cannot take it back, or, with `only_whole`, if the limit cuts it.
    Raises InvalidPrompt (the template cannot take a query), ModelLoadError (the model cannot generate).
    """
    room = window(model) - num_new_tokens
    prompts = [(index, renderer.chat(query.messages)) for index, query in enumerate(queries)]
    answers = [""] * len(queries)
    num_done = sum(len(ids) > room for _, ids in prompts)
    progress(num_done, len(queries), "own answers")
    with _plain_greedy(model, renderer, num_new_tokens) as stop_ids:
        for batch in _batches([prompt for prompt in prompts if len(prompt[1]) <= room], batch_size):
            for (index, _), new_ids in zip(batch, _generate(model, [ids for _, ids in batch]), strict=True):
                if not only_whole or stop_ids.intersection(new_ids):
                    answers[index] = answer_text(new_ids, stop_ids, renderer)
            num_done += len(batch)
            progress(num_done, len(queries), "own answers")
    pairs = zip(queries, answers, strict=True)
    return ["" if misfit(with_answer(query, text), renderer, None) else text for query, text in pairs]


def with_answer(query: Query, text: str, *, late: bool = False) -> Query:
    """The query to learn from: `text` is a general query's response, and an expert's query's own answer.

    `late`: see Query.
    """
    if not text:
        return query
    if query.expert is None:
        return replace(query, response=text)
    return replace(query, own_answer=text, late=late)


def with_answers(queries: Sequence[Query], answers: Mapping[int, str], *, late: bool) -> list[Query]:
    """`answers`: by the index of the query."""
    return [with_answer(query, answers.get(index, ""), late=late) for index, query in enumerate(queries)]


def answer_text(new_ids: Sequence[int], stop_ids: frozenset[int], renderer: PromptRenderer) -> str:
    """The text before the first of `stop_ids`, without special tokens; "" if it is blank.

    The beginning of a character that the limit has cut is left out.
    """
    kept = list(takewhile(lambda token: token not in stop_ids, new_ids))
    text = str(renderer.tokenizer.backend_tokenizer.decode(kept, skip_special_tokens=True))
    text = text.rstrip("\ufffd")
    return text if text.strip() else ""


@contextmanager
def _plain_greedy(
    model: PreTrainedModel, renderer: PromptRenderer, num_new_tokens: int
) -> Iterator[frozenset[int]]:
    """Within it, the model's `generate` is greedy. Gives the ids that end a turn. Raises ModelLoadError.

    The model's own settings are put aside, because `generate` would add its penalties to the ones given.
    """
    if not isinstance(model, GenerationMixin):
        name = checkpoint_name(str(model.name_or_path))
        raise ModelLoadError(f"{name}: cannot generate text here; learn without the meta's own answers")
    own = model.generation_config
    stop_ids = _stop_ids(own, renderer)
    model.generation_config = GenerationConfig(
        max_new_tokens=num_new_tokens,
        do_sample=False,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=min(stop_ids, default=0),  # after the end of a turn, where `answer_text` cuts
    )
    try:
        with torch.inference_mode():
            yield stop_ids
    finally:
        model.generation_config = own


def _stop_ids(generation: GenerationConfig | None, renderer: PromptRenderer) -> frozenset[int]:
    configured = generation.eos_token_id if generation else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*listed, renderer.tokenizer.eos_token_id] if i is not None)


def _batches(
    prompts: Sequence[tuple[int, list[int]]], batch_size: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """Longest first: little padding, and a batch that is too large fails at the start."""
    ordered = sorted(prompts, key=lambda prompt: -len(prompt[1]))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _generate(model: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
    """The new ids after each prompt, with padding at their end. Prompts are padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    new_ids: list[list[int]] = output[:, longest:].tolist()
    return new_ids
