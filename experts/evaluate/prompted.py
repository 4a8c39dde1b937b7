"""The meta as a router by prompt alone: what expert tokens are to do better than."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from experts.errors import DataError
from experts.learn.likelihood import reference_likelihoods
from experts.learn.queries import Query
from experts.learn.route import Judgement
from experts.learn.states import Progress
from experts.prompt import PromptRenderer

NOBODY = "nobody"
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
    """The meta is shown the experts, an example question of `train` for each, and asked whose a query is.

    Its choice is the name, or "nobody", that is likeliest per byte. Decides at the query, so never too soon.
    Raises DataError where the question whose a query is does not fit the template or the window.
    """
    options = [*expert_names, NOBODY]
    examples = _examples(options, train)
    asked = [_asked(query, option, examples) for query in queries for option in options]
    likelihoods = reference_likelihoods(model, renderer, asked, batch_size=batch_size, progress=progress)
    judgements = []
    for start, query in zip(range(0, len(asked), len(options)), queries, strict=True):
        # Not summed: that would favour short names.
        costs = [one.nll_per_byte for one in likelihoods[start : start + len(options)]]
        if not math.isfinite(min(costs)):
            reason = likelihoods[start].refusal or "the meta can write none of the names"
            raise DataError(f"{query.place}: the question whose it is cannot be asked: {reason}; shorten it")
        choice = options[costs.index(min(costs))]
        judgements.append(Judgement(query.expert, None if choice == NOBODY else choice, early=False))
    return judgements


def _asked(query: Query, option: str, examples: Mapping[str, str]) -> Query:
    """`query` with the last message turned into the question whose it is, and `option` as the answer."""
    *earlier, last = query.messages
    described = "\n".join(
        f"- {name}, for example: {example}" if example else f"- {name}" for name, example in examples.items()
    )
    content = (
        "Who should answer the question at the end? Choose one of these, by name:\n"
        f"{described}\n"
        f'Choose "{NOBODY}" for general conversation.\n\n'
        f"Question: {last['content']}\n"
        "Name:"
    )
    message = {"role": last["role"], "content": content}
    return replace(query, messages=(*earlier, message), expert=None, written="", response=option)


def _examples(options: Sequence[str], train: Sequence[Query]) -> dict[str, str]:
    """The shortest training question of each, "" where there is none."""
    questions: dict[str, list[str]] = {option: [] for option in options}
    for query in train:
        questions.setdefault(query.expert or NOBODY, []).append(query.messages[-1]["content"])
    return {option: min(questions[option], key=len, default="")[:_NUM_EXAMPLE_CHARS] for option in options}
