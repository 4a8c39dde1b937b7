"""Has the meta answer some of the queries itself, and keeps its answers beside the states. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.learning.meta_texts import MetaWriter
from experts.learn.own_answers import NUM_NEW_TOKENS, choose_unanswered, with_answers, write_answers
from experts.learn.queries import Query, dataset_digest

_NOT_ON_RAY = (
    "the meta's own answers are not learned from, because --ray computes only states; so experts may take "
    "over in the middle of an answer: run the command once without --ray, which keeps the answers, or add "
    "--mid-answer ignore"
)


def with_own_answers(queries: Sequence[Query], writer: MetaWriter) -> list[Query]:
    """The queries, some of them with the meta's own answer, as `mid_answer` of the writer's options says.

    The queries come back as they are if the cluster hands over only at the start of an answer, or if the
    writer has no answers. Raises what `writer.texts` raises.
    """
    options = writer.options
    chosen = choose_unanswered(queries)
    if options.mid_answer == "ignore" or writer.config.routing.when == "start" or not chosen:
        return list(queries)
    asked = [queries[index] for index in chosen]
    answers = writer.texts(
        "own-answers",
        (dataset_digest(asked), NUM_NEW_TOKENS),
        lambda model, renderer: write_answers(
            model, renderer, asked, batch_size=options.batch_size, progress=writer.progress
        ),
        num_texts=len(asked),
        on_ray=_NOT_ON_RAY,
    )
    if answers is None:
        return list(queries)
    return with_answers(queries, dict(zip(chosen, answers, strict=True)), late=options.mid_answer == "late")
