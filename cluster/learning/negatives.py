"""General questions that the meta writes, for query sets with few of their own. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from cluster.learning.meta_texts import MetaWriter
from experts.errors import TemplateError
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from experts.synthesize.asker import Asker
from experts.synthesize.questions import Draw, synthesize
from experts.synthesize.rejection import normalised
from experts.synthesize.user_turn import UserTurn

# A meta that knows nothing of users would write for long, and nothing would be kept.
_MAX_TEXTS_PER_QUESTION = 4
_KIND = "general-questions"
_NOT_ON_RAY = (
    "the meta is not asked for general questions, because --ray computes only states; so experts may take "
    "over where the data says nothing: run the command once without --ray, which keeps the questions, give "
    "more general queries, or add --negatives 0"
)


def general_questions(data: Sequence[Query], writer: MetaWriter) -> list[Query]:
    """As many as are missing to `negatives` of the writer's options, or fewer if the meta has no more.

    None of them is in the data. They are the same for every query set, and so are written once for each meta.
    Raises what `writer.texts` raises.
    """
    num_wanted = writer.options.negatives
    num_missing = num_wanted - sum(query.expert is None for query in data)
    if num_missing <= 0:
        return []
    draw = Draw(
        num_wanted, batch_size=writer.options.batch_size, max_texts_per_question=_MAX_TEXTS_PER_QUESTION
    )
    found = writer.texts(
        _KIND,
        (draw,),
        lambda model, renderer: _written(model, renderer, draw, writer),
        num_texts=num_wanted,
        on_ray=_NOT_ON_RAY,
    )
    known = {normalised(query.question) for query in data}
    new = [text for text in found or [] if text and normalised(text) not in known]
    queries = [_query(number, text) for number, text in enumerate(new[:num_missing], 1)]
    if found is not None and len(queries) < num_missing:
        writer.warn(_too_few(len(queries), num_missing))
    return queries


def _written(model: PreTrainedModel, renderer: PromptRenderer, draw: Draw, writer: MetaWriter) -> list[str]:
    """The questions, and "" in place of those that were not found."""
    try:
        turn = UserTurn.of(renderer)
    except TemplateError:  # the template marks no place for a user's text; the warning says what to do
        return [""] * draw.num
    stage = _KIND.replace("-", " ")
    found = synthesize(
        Asker(model, turn), None, draw, lambda done, total, what: writer.progress(done, total, stage)
    ).questions
    return found + [""] * (draw.num - len(found))


def _query(number: int, text: str) -> Query:
    message = {"role": "user", "content": text}
    return Query((message,), place=f"general question {number} of the meta", origin="meta")


def _too_few(num_found: int, num_missing: int) -> str:
    return (
        f"the meta wrote only {num_found} of {num_missing} general questions; add general queries to "
        'the data, with "expert": null, or none will be asked for with --negatives 0'
    )
