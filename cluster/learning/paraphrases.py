"""Queries of the data in other words, which the meta finds. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.learning.meta_texts import MetaWriter
from experts.learn.queries import Query, dataset_digest
from experts.learn.split import split_queries
from experts.synthesize.paraphrase import (
    NUM_NEW_TOKENS,
    can_be_rephrased,
    paraphrase_requests,
    rephrased,
    write_paraphrases,
)

_NOT_ON_RAY = (
    "nothing is learned from paraphrases, because --ray computes only states: run the command once without "
    "--ray, which keeps the paraphrases, or leave --paraphrase out"
)


def paraphrases(queries: Sequence[Query], writer: MetaWriter) -> list[Query]:
    """At most `paraphrase` of the writer's options for each query of the data that is learned from.

    Held-out queries are not put in other words, and none of the paraphrases is a query already.
    Raises what `writer.texts` raises.
    """
    options = writer.options
    asked = _learned_from(queries, options.held_out_share) if options.paraphrase else []
    requests = [
        (query, request) for query in asked for request in paraphrase_requests(query, options.paraphrase)
    ]
    if not requests:
        return []
    texts = writer.texts(
        "paraphrases",
        (dataset_digest(request for _, request in requests), NUM_NEW_TOKENS),
        lambda model, renderer: write_paraphrases(
            model,
            renderer,
            [request for _, request in requests],
            batch_size=options.batch_size,
            progress=writer.progress,
        ),
        num_texts=len(requests),
        on_ray=_NOT_ON_RAY,
    )
    pairs = zip(requests, texts or [""] * len(requests), strict=True)
    return _new([rephrased(query, text) for (query, _), text in pairs], queries)


def _learned_from(queries: Sequence[Query], held_out_share: float) -> list[Query]:
    """The queries of the data that are learned from, and that can be put in other words."""
    learned, _ = split_queries(queries, held_out_share)
    chosen = [queries[index] for index in learned]
    return [query for query in chosen if query.origin == "data" and can_be_rephrased(query)]


def _new(found: Sequence[Query | None], queries: Sequence[Query]) -> list[Query]:
    """Each once, and without those that are among the queries, as a paraphrase may be a held-out query."""
    known = {dataset_digest([_bare(query)]) for query in queries}
    new: list[Query] = []
    for query in found:
        if query is not None and (key := dataset_digest([_bare(query)])) not in known:
            known.add(key)
            new.append(query)
    return new


def _bare(query: Query) -> Query:
    return Query(query.messages)
