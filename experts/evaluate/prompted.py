"""A baseline for expert tokens: the meta chooses the expert from a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from experts.errors import DataError
from experts.evaluate.candidates import candidate_likelihoods
from experts.evaluate.methods import PROMPTED
from experts.learn.hidden_states import Progress
from experts.learn.queries import Query
from experts.learn.routing_judge import Judgement
from experts.prompt import PromptRenderer

# What the prompt calls the choice of no expert. Not "general", which is a likely name of an expert.
_NO_EXPERT = "nobody"
_NUM_EXAMPLE_CHARS = 200


def judge_prompted(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    queries: Sequence[Query],
    *,
    expert_names: Sequence[str],
    train: Sequence[Query],
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> list[Judgement]:
    """Shows the meta all experts, each with an example question of `train`, and asks which should answer.

    Its choice is the name that is likeliest per byte, or the choice of no expert. It decides at the query,
    so never too early. Raises DataError if that prompt does not fit the template or the window.
    """
    options = [*expert_names, _NO_EXPERT]
    examples = _examples(options, train)
    prompts = [_prompt(query, examples) for query in queries]
    rows = candidate_likelihoods(
        model, renderer, prompts, options, batch_size=batch_size, progress=progress, stage=PROMPTED
    )
    judgements = []
    for query, row in zip(queries, rows, strict=True):
        # Per byte, because sums would favour short names.
        costs = [likelihood.nll_per_byte for likelihood in row]
        if not math.isfinite(min(costs)):
            reason = row[0].refusal or "the meta can write none of the names"
            raise DataError(f"{query.place}: the meta cannot be asked for its expert: {reason}; shorten it")
        choice = options[costs.index(min(costs))]
        judgements.append(Judgement(query.expert, None if choice == _NO_EXPERT else choice, early=False))
    return judgements


def _prompt(query: Query, examples: Mapping[str, str]) -> Query:
    """Asks, in place of the last message, which expert should answer it."""
    *earlier, last = query.messages
    described = "\n".join(
        f"- {name}, for example: {example}" if example else f"- {name}" for name, example in examples.items()
    )
    content = (
        "Who should answer the question at the end? Choose one of these, by name:\n"
        f"{described}\n"
        f'Choose "{_NO_EXPERT}" for general conversation.\n\n'
        f"Question: {last['content']}\n"
        "Name:"
    )
    message = {"role": last["role"], "content": content}
    return replace(query, messages=(*earlier, message), expert=None, written="", response="")


def _examples(options: Sequence[str], train: Sequence[Query]) -> dict[str, str]:
    """The shortest training question of each option; "" if it has none."""
    questions: dict[str, list[str]] = {option: [] for option in options}
    for query in train:
        questions.setdefault(query.expert or _NO_EXPERT, []).append(query.messages[-1]["content"])
    return {option: min(questions[option], key=len, default="")[:_NUM_EXAMPLE_CHARS] for option in options}
